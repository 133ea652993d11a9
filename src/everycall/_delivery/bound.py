"""Bounds the whole spool directory, so that many short processes cannot fill the disk during an outage."""

from __future__ import annotations

import os
from pathlib import Path

from everycall._delivery.folder import SUFFIX
from everycall._delivery.segment import adopt

__all__ = ["keep_within"]


def keep_within(root: Path, owner: int, bytes_max: int, files_max: int) -> int:
    """Delete the oldest segments of ended processes until a spool directory is within its bounds.

    All folders of the user with the id `owner` count, of every endpoint and project. Other users' folders do not, so
    that what they write never costs this user's records. Segments of running processes stay: each process bounds its
    own. Return how many records were lost.
    """
    segments: list[tuple[str, Path, int]] = []  # (name, path, bytes); a name begins with its creation time
    try:
        for entry in list(os.scandir(root)):
            if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == owner:
                segments += _segments_in(entry.path)
    except OSError:
        return 0
    total, lost = sum(size for _, _, size in segments), 0
    count = len(segments)
    for _, path, size in sorted(segments):
        if total <= bytes_max and count <= files_max:
            break
        segment = adopt(path)
        if segment is not None:
            lost += segment.pending()
            segment.remove()
            segment.release()
            total, count = total - size, count - 1
    return lost


def _segments_in(directory: str) -> list[tuple[str, Path, int]]:
    try:
        return [
            (entry.name, Path(entry.path), entry.stat(follow_symlinks=False).st_blocks * 512)
            for entry in os.scandir(directory)
            if entry.name.endswith(SUFFIX)
        ]
    except OSError:  # another user's, or deleted meanwhile
        return []
