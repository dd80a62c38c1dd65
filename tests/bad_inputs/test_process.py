"""Some of the corpus once more as a user meets it: a process of its own, its exit code and its two outputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_inputs import atomic_files, command_line, raw_files, settings_files, world
from tests.bad_inputs.test_corpus import check_message

PROGRAM = Path(__file__).resolve().parents[2] / "run_recbole_soft.py"
CHOSEN = {"a key given twice": command_line, "an anchor bomb": settings_files, "the two files swapped": raw_files,
          "no column of titles": atomic_files}


@pytest.mark.parametrize("name", CHOSEN)
def test_message_of_a_process(small_world: Path, tmp_path: Path, name: str):
    case = next(case for case in CHOSEN[name].CASES if case.name == name)
    folder = Path(shutil.copytree(small_world, tmp_path / "world"))
    world.apply_changes(case, folder)
    done = subprocess.run([sys.executable, str(PROGRAM), *world.words_of(case)], cwd=folder, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) <= 5
    check_message(case, done.stderr)
