"""The spool's folders: one for each endpoint and project in the spool directory, which other users may share.

A folder is opened without following links, and its files relative to the opened folder, so that other users of the
directory cannot put other files in their place. File names never contain the project or the endpoint, which may have a
password.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from everycall import limits

__all__ = [
    "REFUSED_DIR",
    "SUFFIX",
    "create_file",
    "is_supported",
    "keep_refused",
    "open_file",
    "opened",
    "prepare",
    "spool_dir",
    "spool_dirs",
    "target_of",
]

SUFFIX = ".spool"
TARGET_FILE = "target.json"
REFUSED_DIR = "refused"
_CANDIDATES = 4
_CLOEXEC, _NOFOLLOW = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY, _NONBLOCK = getattr(os, "O_DIRECTORY", 0), getattr(os, "O_NONBLOCK", 0)


def is_supported() -> bool:
    """Return whether this platform has what the spool needs: file locks, and opening files relative to a folder."""
    try:
        import fcntl  # noqa: F401 - Windows has none
    except ImportError:
        return False
    return os.open in os.supports_dir_fd and hasattr(os, "pread")


def spool_dirs(root: Path, endpoint: str, project: str) -> list[Path]:
    """Return the possible folders of one destination. The first one that belongs to this user is used.

    Records for one endpoint and project are never sent to another. The name has the user's id, so that several users
    can share a root. The further names are used if another user has taken the first.
    """
    digest = hashlib.sha256(f"{endpoint}\0{project}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    name = f"{digest}-{user}"
    return [root / name, *(root / f"{name}-{number}" for number in range(1, _CANDIDATES))]


def spool_dir(root: Path, endpoint: str, project: str) -> Path:
    """Return the first possible folder of one destination; see `spool_dirs`."""
    return spool_dirs(root, endpoint, project)[0]


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    """Open a folder, for use as `dir_fd`. Raise `OSError` if it is a link or not a folder."""
    fd = os.open(directory, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def create_file(folder: int, name: str, flags: int = os.O_RDWR | os.O_EXCL) -> int:
    """Create a file that only this user can read, in an opened folder, and return its file descriptor.

    Raise `OSError` if it exists (unless `flags` allow that), or if it is a link, has a second name, or has another
    owner than the folder: then the folder belongs to another user.
    """
    fd = os.open(name, flags | os.O_CREAT | _NOFOLLOW | _CLOEXEC | _NONBLOCK, 0o600, dir_fd=folder)
    try:
        _check(fd, folder)
    except OSError:
        os.close(fd)
        if flags & os.O_EXCL:
            os.unlink(name, dir_fd=folder)
        raise
    return fd


def open_file(folder: int, name: str, flags: int) -> int:
    """Open a file in an opened folder, with the checks of `create_file`."""
    fd = os.open(name, flags | _NOFOLLOW | _CLOEXEC | _NONBLOCK, dir_fd=folder)
    try:
        _check(fd, folder)
    except OSError:
        os.close(fd)
        raise
    return fd


def _check(fd: int, folder: int) -> None:
    # The owners are compared with each other, not with this process: some file systems show one owner for all files.
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.fstat(folder).st_uid:
        raise PermissionError(errno.EPERM, "it belongs to another user, or is not a plain file")


def prepare(directory: Path, endpoint: str, project: str) -> None:
    """Make a folder and note its destination in it. Raise `OSError` if that fails or it is another user's."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(directory) as folder:
        if os.fstat(folder).st_mode & 0o077:
            os.fchmod(folder, 0o700)
        try:
            os.close(open_file(folder, TARGET_FILE, os.O_RDONLY))
        except FileNotFoundError:
            part = f"{TARGET_FILE}.{os.getpid()}.part"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)  # of a process that was killed here, and had the same id
            fd = create_file(folder, part)
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps({"endpoint": endpoint, "project_name": project}).encode())
            os.rename(part, TARGET_FILE, src_dir_fd=folder, dst_dir_fd=folder)


def target_of(directory: Path) -> tuple[str, str] | None:
    """Return the (endpoint, project) of a spool folder, or None if its target file is missing or broken."""
    try:
        with opened(directory) as folder, os.fdopen(open_file(folder, TARGET_FILE, os.O_RDONLY), "rb") as file:
            target = json.loads(file.read(16_384))
        return str(target["endpoint"]), str(target["project_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_refused(directory: Path, line: bytes) -> None:
    """Append a line to today's file of refused records. Raise `OSError` if that fails.

    All files together hold at most `limits.REFUSED_BYTES_MAX`: the oldest are deleted, and then nothing is written.
    """
    with opened(directory) as folder:
        with contextlib.suppress(FileExistsError):
            os.mkdir(REFUSED_DIR, 0o700, dir_fd=folder)
        refused = os.open(REFUSED_DIR, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _CLOEXEC, dir_fd=folder)
    try:
        name = f"{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"
        if not _free_space(refused, len(line), name):
            return
        fd = create_file(refused, name, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
    finally:
        os.close(refused)


def _free_space(folder: int, size: int, current: str) -> bool:
    """Delete the oldest files but the current one until `size` bytes fit; return whether they do."""
    sizes = {name: os.stat(name, dir_fd=folder, follow_symlinks=False).st_size for name in sorted(os.listdir(folder))}
    total = sum(sizes.values()) + size
    for name, old_size in sizes.items():
        if total <= limits.REFUSED_BYTES_MAX:
            break
        if name != current:
            os.unlink(name, dir_fd=folder)
            total -= old_size
    return total <= limits.REFUSED_BYTES_MAX
