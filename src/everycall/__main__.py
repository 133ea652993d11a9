"""`python -m everycall`: the same as the command `everycall`."""

import sys

from everycall.cli import main

if __name__ == "__main__":
    sys.exit(main())
