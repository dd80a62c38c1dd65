"""Every bad input ends in one message with cause, place and remedy, and harms nothing that was there before."""

from __future__ import annotations

import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from recbole_soft import cli
from tests.bad_inputs import atomic_files, checkpoints, command_line, raw_files, settings_files, surroundings, world
from tests.bad_inputs.case import Case

TABLES = {"command line": command_line, "settings files": settings_files, "atomic files": atomic_files,
          "raw files": raw_files, "checkpoints": checkpoints, "surroundings": surroundings}
CASES = [pytest.param(case, id=f"{table}: {case.name}") for table, module in TABLES.items() for case in module.CASES]
MESSAGE = re.compile(r"error: (?P<cause>.+?)\n +where: +(?P<place>.+?)\n +remedy: +(?P<remedy>.+)\Z", re.DOTALL)


@pytest.fixture
def own_world(small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to do harm in, and the current folder."""
    folder = Path(shutil.copytree(small_world, tmp_path / "world"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: Case, own_world: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    world.apply_changes(case, own_world)
    before = world.contents(own_world)
    capsys.readouterr()
    with case.within(own_world) if case.within else nullcontext():
        code = cli.main(world.words_of(case))
        after = world.contents(own_world)
    printed = capsys.readouterr()
    assert code == case.ends, printed.err
    assert "Traceback" not in printed.out + printed.err
    if code == 0:
        assert case.says in printed.out + printed.err + caplog.text
        return
    check_message(case, printed.err)
    assert {name: after.get(name) for name in before} == before, "what was there before is as it was"
    made = after.keys() - before.keys()
    assert not [name for name in made if name.endswith("run.json") or re.search(r"(^|/)\.[^/]", name)], made


def check_message(case: Case, printed: str) -> None:
    """One message, in three parts, each with what the case expects."""
    assert printed.count("error: ") == 1
    found = MESSAGE.search(printed)
    assert found, f"a message has a cause, a place and a remedy: {printed}"
    assert case.cause and case.place and case.remedy, "a case expects something of each part"
    assert case.cause in found["cause"] + (found["remedy"] if " mistakes in " in found["cause"] else ""), printed
    assert case.place in found["cause"] + found["place"], printed
    assert case.remedy in found["remedy"], printed


def test_there_are_enough_cases_and_their_names_tell_them_apart():
    names = [case.id for case in CASES]
    assert len(names) >= 110 and len(set(names)) == len(names)
    assert all(len(module.CASES) >= 8 for module in TABLES.values())
