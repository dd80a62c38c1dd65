"""What was finished stays: full disks, folders that cannot be written, interruptions, artefacts cut short."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_soft.strategies.soft import SelfOptimisedStage


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB: room for the weights of one stage, not of two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("setting", ["checkpoint_dir", "artifacts_dir"])
def test_file_where_the_folder_should_be(refused, tmp_path, setting):
    file = tmp_path / "file"
    file.write_text("keep me")
    folders = {"artifacts_dir": tmp_path / "store", setting: file}
    refused("cannot be written", str(file), f"--{setting}=FOLDER", **folders)
    assert file.read_text() == "keep me"


def test_full_disk_in_the_second_stage(run, small_disk, tmp_path):
    """The SFT stage is finished: the next run, with a place to write, goes on from it."""
    store = {"model": "BIGRec_SOFT", "artifacts_dir": tmp_path / "store", "tiny_hidden_size": 48}
    code, message = run(checkpoint_dir=small_disk, **store)
    assert code == 2 and message.count("error: ") == 1 and "Traceback" not in message
    assert "No space left on device" in message and str(small_disk) in message
    assert "--checkpoint_dir=FOLDER" in message and "finished are kept" in message
    code, message = run(run_name="again", **store)
    assert code == 0, message
    assert record_of(tmp_path / "saved" / "again")["stages"]["sft"]["reused"]


def test_full_disk_under_a_traditional_model(run, small_disk):
    (small_disk / "filler").write_bytes(b"0" * 450_000)
    code, message = run(model="SASRec", checkpoint_dir=small_disk)
    assert code == 2 and "Traceback" not in message and str(small_disk) in message


@pytest.mark.parametrize(("event", "code", "expected"), [
    (KeyboardInterrupt(), 130, "interrupted by the keyboard"),
    (OSError(errno.ENOSPC, "No space left on device", "/somewhere"), 2,
     "device\n  where:  /somewhere"),
])
def test_interruption_in_the_second_stage(run, monkeypatch, tmp_path, event, code, expected):
    def interrupt(*_args):
        raise event

    settings = {"model": "BIGRec_SOFT", "run_name": "mine", "artifacts_dir": tmp_path / "store"}
    with monkeypatch.context() as patch:
        patch.setattr(SelfOptimisedStage, "begin_epoch", interrupt)
        ended, message = run(**settings)
    assert ended == code and expected in message and "stages that were finished are kept" in message
    assert not (tmp_path / "saved" / "mine" / "run.json").exists()
    assert run(**settings)[0] == 0
    record = record_of(tmp_path / "saved" / "mine")
    assert record["stages"]["sft"]["reused"] and not record["stages"]["soft"]["reused"]


def test_a_run_that_fails_leaves_the_record_of_an_earlier_one(run, refused, tmp_path):
    assert run(run_name="mine")[0] == 0
    folder = tmp_path / "saved" / "mine"
    names = ("run.json", "table.txt", "curves.csv", "ranks_sft.csv", "sft/model.safetensors")
    before = {name: (folder / name).read_bytes() for name in names}
    refused("no adapter_config.json", run_name="mine", tuning="lora", sft_adapter=folder / "sft")
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_artefacts_that_were_cut_short_are_made_anew(run, tmp_path):
    store = tmp_path / "store"
    settings = {"model": "BIGRec_SOFT", "artifacts_dir": store}
    assert run(run_name="first", **settings)[0] == 0
    files = [file for name in ("tiny-llm-*/model.safetensors", "item-table-*/vectors.safetensors",
                               "stage-sft-*/model.safetensors", "self-distilled-*/self_distilled.jsonl")
             for file in store.glob(name)]
    whole = {file: file.stat().st_size for file in files}
    assert len(files) == 4
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, message = run(run_name="second", **settings)
    assert code == 0, message
    assert {file: file.stat().st_size for file in files} == whole
    first, second = (record_of(tmp_path / "saved" / name) for name in ("first", "second"))
    assert not second["stages"]["sft"]["reused"] and first["results"] == second["results"]
    assert not list(store.glob(".*"))
