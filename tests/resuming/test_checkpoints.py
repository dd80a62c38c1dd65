"""Checkpoints: exact, the last two, checksums, and kills between any two operations on files."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.resuming.checkpoints import STATE_FILE, TENSORS_FILE, Checkpoints


def saved(folder: Path, count: int, identity: str = "mine") -> Checkpoints:
    saves = Checkpoints(folder, 0, identity)
    for number in range(count):
        saves.write({"number": number}, {"values": torch.full((3,), float(number))})
    return saves


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(deadline=None, max_examples=12)
@given(number=st.floats(allow_nan=False), whole=st.integers(), text=st.text(), bits=st.lists(
    st.integers(-2**31, 2**31 - 1), max_size=5))
def test_everything_comes_back_exactly(tmp_path_factory, number, whole, text, bits):
    folder = tmp_path_factory.mktemp("saves")
    tensors = {"floats": torch.tensor(bits, dtype=torch.int32).view(torch.float32), "scalar": torch.tensor(7.5),
               "bytes": torch.get_rng_state(), "half": torch.randn(3).bfloat16()}
    state = {"number": number, "whole": whole, "text": text, "list": [None, True, [1.5]]}
    Checkpoints(folder, 0, "mine").write(state, tensors)
    found = Checkpoints(folder, 0, "mine").latest()
    assert found.state == state and found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype and found.tensors[name].shape == tensor.shape
        assert found.tensors[name].flatten().view(torch.uint8).equal(tensor.flatten().view(torch.uint8))


def test_the_last_two_are_kept_and_the_last_is_found(tmp_path):
    saves = saved(tmp_path / "saves", 5)
    assert names(tmp_path / "saves") == ["checkpoint-000004", "checkpoint-000005"]
    assert saves.latest().state == {"number": 4}
    saves.clear()
    assert saves.latest() is None and not (tmp_path / "saves").exists()


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [
    lambda folder: flip(folder / TENSORS_FILE, -1), lambda folder: flip(folder / TENSORS_FILE, 3),
    lambda folder: flip(folder / STATE_FILE, -3), lambda folder: flip(folder / STATE_FILE, 0),
    lambda folder: os.truncate(folder / TENSORS_FILE, 10), lambda folder: os.truncate(folder / STATE_FILE, 0),
    lambda folder: (folder / TENSORS_FILE).unlink(), lambda folder: (folder / STATE_FILE).unlink(),
    lambda folder: (folder / STATE_FILE).write_bytes(b"\xff\xfe"),
])
def test_a_damaged_one_is_passed_over_with_a_message(tmp_path, caplog, damage):
    saves = saved(tmp_path, 2)
    damage(tmp_path / "checkpoint-000002")
    with caplog.at_level(logging.WARNING, "recbole_soft"):
        assert saves.latest().state == {"number": 0}
    assert "checkpoint-000002 is damaged" in caplog.text and "the one before it is used" in caplog.text
    damage(tmp_path / "checkpoint-000001")
    assert saves.latest() is None
    saves.write({"number": 9}, {})
    assert saves.latest().state == {"number": 9}


def test_checkpoints_of_other_work_are_not_used(tmp_path, caplog):
    saved(tmp_path, 1)
    with caplog.at_level(logging.INFO, "recbole_soft"):
        assert Checkpoints(tmp_path, 0, "other").latest() is None
    assert "written for other settings" in caplog.text and "damaged" not in caplog.text


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def killed_at(moment: int, patch: pytest.MonkeyPatch, saves: Checkpoints) -> bool:
    """Writes a checkpoint that is killed at a file operation; False if there are not so many."""
    left = [moment]

    def dying(original):
        def operation(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*arguments, **named)
        return operation

    for name in ("mkdir", "replace", "fsync", "unlink", "rmdir", "open"):
        patch.setattr(os, name, dying(getattr(os, name)))
    try:
        saves.write({"number": 3}, {"values": torch.ones(3)})
    except Killed:
        return True
    return False


def test_a_kill_at_any_operation_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    found, moment, was_killed = [], 0, True
    while was_killed:
        folder = tmp_path / str(moment)
        saves = saved(folder, 3)
        with monkeypatch.context() as patch:
            was_killed = killed_at(moment, patch, saves)
        found.append(Checkpoints(folder, 0, "mine").latest().state["number"])
        saves.write({"number": 4}, {})
        assert saves.latest().state == {"number": 4} and ".unfinished" not in names(folder)
        moment += 1
    assert moment > 10 and found == sorted(found) and set(found) == {2, 3}


def test_a_full_disk_costs_a_warning_and_no_work(tmp_path, caplog, monkeypatch):
    saves = saved(tmp_path, 1)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "here")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        saves.write({"number": 7}, {})
    assert "cannot be saved (No space left on device: here)" in caplog.text
    assert saves.latest().state == {"number": 0} and names(tmp_path) == ["checkpoint-000001"]


def test_what_json_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(TypeError):
        Checkpoints(tmp_path, 0, "mine").write({"object": object()}, {})


def test_without_a_folder_nothing_is_due_or_found():
    saves = Checkpoints(None, 0, "mine")
    assert not saves.is_due() and saves.latest() is None


def test_pace_waits_and_never_spends_a_fiftieth_on_writing(monkeypatch):
    from recbole_soft.resuming import pace

    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    often, seldom = pace.Pace(0), pace.Pace(60)
    assert often.is_due() and not seldom.is_due()
    now[0] += 60
    assert seldom.is_due()
    with seldom.writing(), often.writing():
        now[0] += 5
    assert often.is_due()  # asked for at every opportunity
    now[0] += 250
    assert not seldom.is_due()
    now[0] += 51
    assert seldom.is_due()
