"""A spool directory that other users may write to: what they put there costs nobody records, and is not sent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everycall._delivery import folder
from everycall._delivery.bound import keep_within
from everycall._delivery.segment import adopt
from everycall._delivery.spool import Spool
from everycall._ledger import Ledger
from everycall_testkit.sink import Sink

OTHER = 12_345
pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make files of other users"
)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


def leave(root: Path, endpoint: str, number: int, size: int = 0) -> Path:
    """Leave one record of an ended process; return its file."""
    spool = Spool(root, endpoint, "default", Ledger())
    spool.append(b'{"inference_id":"%d","inputs":{"n":%d,"pad":"%b"}}' % (number, number, b"x" * size))
    assert spool.current is not None
    path = spool.current.path
    spool.close()
    return path


def give_away(directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        os.chown(path, OTHER, OTHER)


def test_what_others_write_does_not_count(tmp_path: Path) -> None:
    """Their files fill the directory beyond its bound: this user's older ones stay, and so do theirs."""
    own = leave(tmp_path, "http://127.0.0.1:1", 0, 10_000)
    theirs = leave(tmp_path, "http://127.0.0.1:2", 1, 900_000)
    give_away(theirs.parent)
    assert keep_within(tmp_path, os.geteuid(), 100_000, 10) == 0
    assert own.exists()
    assert theirs.exists()
    assert keep_within(tmp_path, os.geteuid(), 1_000, 10) == 1
    assert not own.exists()
    assert theirs.exists()


def ship(root: Path, sink: Sink) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "everycall", "ship", "--spool-dir", str(root), "--endpoint", sink.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_ship_sends_nothing_that_others_put_there(tmp_path: Path, sink: Sink) -> None:
    """Neither a folder of theirs nor a link to one is read: its records would go out with this user's key."""
    leave(tmp_path, "http://127.0.0.1:1", 0)
    theirs = leave(tmp_path, "http://127.0.0.1:2", 1).parent
    give_away(theirs)
    elsewhere = leave(tmp_path / "elsewhere", "http://127.0.0.1:3", 2)
    (tmp_path / "link").symlink_to(elsewhere.parent)
    done = ship(tmp_path, sink)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(sink.numbers()) == {0}
    assert "folders: they belong to other users" in done.stdout
    assert len(list(theirs.glob("*.spool"))) == 1
    assert elsewhere.exists()


def test_ship_sends_what_the_owner_of_the_directory_put_there(tmp_path: Path, sink: Sink) -> None:
    """An administrator ships a whole directory of another user."""
    directory = leave(tmp_path, "http://127.0.0.1:1", 0).parent
    give_away(directory)
    os.chown(tmp_path, OTHER, OTHER)
    assert ship(tmp_path, sink).returncode == 0
    assert set(sink.numbers()) == {0}


def test_a_segment_is_deleted_where_it_was_opened(tmp_path: Path) -> None:
    """Its folder is replaced by a link while it is being delivered: nothing is deleted where the link leads."""
    path = leave(tmp_path, "http://127.0.0.1:1", 0)
    segment = adopt(path)
    assert segment is not None
    victim = tmp_path / "victim"
    shutil.copytree(path.parent, victim)
    path.parent.rename(tmp_path / "moved")
    path.parent.symlink_to(victim)
    segment.remove()
    segment.release()
    assert (victim / path.name).exists()
    assert folder.target_of(path.parent) is None
