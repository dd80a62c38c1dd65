"""Locks: one holder, named in the message, and none that outlives its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_soft.artifacts import ArtifactStore
from recbole_soft.errors import UserError
from recbole_soft.resuming.locks import LOCK_FILE, one_at_a_time, only_process_in

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from recbole_soft.resuming.locks import only_process_in
with only_process_in(Path(sys.argv[1]), "nothing"):
    sys.stdout.write("held\\n"); sys.stdout.flush(); time.sleep(60)
"""
MAKER = """
import sys, time
from pathlib import Path
from recbole_soft.artifacts import ArtifactStore
def make(folder):
    with open(sys.argv[2], "a") as file:
        file.write("made\\n")
    time.sleep(0.5)
    (folder / "result").write_text("whole")
folder, _ = ArtifactStore(Path(sys.argv[1])).obtain("thing", "key", make)
assert (folder / "result").read_text() == "whole"
"""


def started(code: str, *arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True, **options)


def test_a_second_process_is_refused_and_told_whom_to_wait_for(tmp_path):
    with started(HOLDER, tmp_path, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as refused, only_process_in(tmp_path, "use --run_name=NAME"):
            raise AssertionError("two at once")
        message = str(refused.value)
        assert f"process {holder.pid}, since " in message and str(tmp_path) in message
        assert f"(kill {holder.pid}), or use --run_name=NAME" in message
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / LOCK_FILE).exists()
        with only_process_in(tmp_path, "nothing"):  # the kernel took the lock back, though the file is still there
            pass
    assert not list(tmp_path.iterdir())


def test_a_second_block_of_the_same_process_is_refused_too(tmp_path):
    with only_process_in(tmp_path, "no"), pytest.raises(UserError, match=f"process {os.getpid()}"), \
            only_process_in(tmp_path, "no"):
        raise AssertionError("two at once")


def test_whoever_waits_is_told_for_whom(tmp_path):
    told = []
    with started(HOLDER, tmp_path, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()

        def note_and_end(who: str) -> None:
            told.append(who)
            holder.kill()

        with one_at_a_time(tmp_path / LOCK_FILE, note_and_end):
            pass
    assert len(told) == 1 and f"process {holder.pid}, since " in told[0]


def test_a_lock_file_that_is_removed_while_it_is_waited_for_is_no_lock(tmp_path):
    """Whoever waited has a lock on a file that is gone, and has to take one on the file that everybody sees."""
    with started(HOLDER, tmp_path, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()

        def replace_and_end(_who: str) -> None:
            (tmp_path / LOCK_FILE).unlink()
            holder.kill()

        with one_at_a_time(tmp_path / LOCK_FILE, replace_and_end), pytest.raises(UserError), \
                only_process_in(tmp_path, "no"):
            raise AssertionError("two at once")


def test_two_processes_that_need_the_same_artefact_make_it_once(tmp_path):
    makers = [started(MAKER, tmp_path / "store", tmp_path / "calls") for _ in range(3)]
    assert [maker.wait() for maker in makers] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "made\n"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["thing-key"]


def test_a_killed_maker_leaves_its_parts_to_the_next_one(tmp_path):
    store = ArtifactStore(tmp_path)
    code = ("import os, sys\nfrom pathlib import Path\nfrom recbole_soft.artifacts import ArtifactStore, PARTS\n"
            "def make(folder):\n    (folder / PARTS).mkdir()\n    (folder / PARTS / 'half').write_text('1')\n"
            "    (folder / 'other').write_text('2')\n    os.kill(os.getpid(), 9)\n"
            "ArtifactStore(Path(sys.argv[1])).obtain('thing', 'key', make)")
    assert started(code, tmp_path).wait() == -signal.SIGKILL
    assert store.find("thing", "key") is None
    found = []

    def make(folder: Path) -> None:
        found.extend(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
        (folder / "result").write_text("whole")

    folder, reused = store.obtain("thing", "key", make)
    assert not reused and found == ["parts", "parts/half"]
    assert sorted(path.name for path in folder.iterdir()) == ["complete.json", "result"]
    assert [path.name for path in tmp_path.iterdir()] == ["thing-key"]


def test_waiting_ends_soon_after_the_holder_does(tmp_path):
    with started(HOLDER, tmp_path, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        ended = []

        def end(_who: str) -> None:
            holder.kill()
            ended.append(time.monotonic())

        with one_at_a_time(tmp_path / LOCK_FILE, end):
            assert time.monotonic() - ended[0] < 10
