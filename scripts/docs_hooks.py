"""Hooks of the documentation site's build: links to files outside docs/, which are not on the site, become names."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with links to files outside docs/ as the files' names."""
    return _OUTSIDE.sub(lambda link: link[1] if link[2] in link[1] else f"{link[1]} (`{link[2]}`)", markdown)
