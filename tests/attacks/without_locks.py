"""Run a Python module in a process whose kernel answers ENOLCK to locks, as it does for some network file systems.

`python without_locks.py flock|fcntl MODULE ARGUMENT...`: `flock` is the lock of the whole file, `fcntl` POSIX's, which
SQLite takes. Exits with 77 if the kernel takes no filter of system calls. Linux on x86-64 and ARM only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys

NUMBERS = {"x86_64": {"flock": 73, "fcntl": 72}, "aarch64": {"flock": 32, "fcntl": 25}}
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: load a word of the call, compare it, answer
ALLOW, FAIL = 0x7FFF0000, 0x00050000
NUMBER_AT, SECOND_ARGUMENT_AT = 0, 24  # in struct seccomp_data
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
UNAVAILABLE = 77


def refuse(call: str) -> bool:
    """Have the kernel answer ENOLCK to `call` in this process and its programs; return whether it agreed."""
    number = NUMBERS.get(platform.machine(), {}).get(call)
    if number is None:
        return False
    instructions = [(LOAD, 0, 0, NUMBER_AT)]
    if call == "flock":
        instructions += [(IF_EQUAL, 0, 1, number)]
    else:  # of fcntl only the locks
        instructions += [(IF_EQUAL, 0, 3, number), (LOAD, 0, 0, SECOND_ARGUMENT_AT), (IF_EQUAL, 0, 1, fcntl.F_SETLK)]
    instructions += [(RETURN, 0, 0, FAIL | errno.ENOLCK), (RETURN, 0, 0, ALLOW)]
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.create_string_buffer(header, len(header)), 0, 0) == 0)


if __name__ == "__main__":
    if not refuse(sys.argv[1]):
        sys.exit(UNAVAILABLE)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
