"""Runs that were interrupted: the same numbers, no work done twice, and what the command says about them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recbole_soft import cli
from recbole_soft.artifacts import UNFINISHED, write_json
from recbole_soft.models import base as model_base
from recbole_soft.models.recbole_training import ResumableTraining
from recbole_soft.resuming.checkpoints import Checkpoints
from recbole_soft.run import run_recbole_soft
from recbole_soft.run_folders import finished_record
from recbole_soft.trainer.llm_trainer import LLMTrainer
from tests.integration.conftest import words_of
from tests.resume_jobs import TIMES

ROOT = Path(__file__).parents[2]


SEEDS = itertools.count(100)


class Ended(Exception):
    """Ends a run in the middle; nothing catches it."""


@pytest.fixture
def ends_at(monkeypatch) -> Callable[..., None]:
    """`ends_at(LLMTrainer, "_step", 5)`: the fifth call of the method ends the run, before it does anything."""

    def arm(owner: type, name: str, call: int) -> None:
        original, calls = getattr(owner, name), [0]

        def counted(*arguments, **named):
            calls[0] += 1
            if calls[0] == call:
                setattr(owner, name, original)
                raise Ended
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

    return arm


def curves(result: dict) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in result["record"]["curves"]]


def weights(result: dict) -> dict[str, bytes]:
    folder = Path(result["record_path"]).parent
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_short_form_of_the_harness():
    """Kills at random moments of SOFT, SASRec and the preparation of data, compared with what nobody kills."""
    done = subprocess.run([sys.executable, "-m", "tests.resume_harness", "--kills=7", "--seed=3",
                           "--jobs=soft,sasrec,prepare"], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 kills" in done.stdout and "all with the same numbers" in done.stdout and "DIFFERS" not in done.stdout


LLM = {"tuning": "lora", "lora_dropout": 0.1, "learning_rate": 3e-3, "checkpoint_seconds": 0, "num_beams": 1,
       "train_sample": 32, "train_batch_size": 8, "valid_sample": 6, "test_sample": 6, "max_new_tokens": 5}


@pytest.mark.parametrize(("model", "own", "call"), [
    ("BIGRec_SOFT", {"learning_rate": 0.03, "alpha": 50.0, "distance_sample": 12}, 8 + 4 + 2),
    ("BIGRec_SDPO", {"sdpo_epochs": 2}, 8 + 4 + 2)])
def test_no_step_is_trained_twice(toy_settings, tmp_path, monkeypatch, ends_at, model, own, call):
    """The run ends in the second epoch of the second stage, where tau, d_0 and earlier negatives matter."""
    settings = toy_settings(**{**LLM, **own})
    whole = run_recbole_soft(model, "toy", config_dict={**settings, "run_name": "whole",
                                                        "artifacts_dir": str(tmp_path / "a")})
    steps: list[tuple] = []
    original = LLMTrainer._step

    def noted(self, stage, number, prompts, advance):
        result = original(self, stage, number, prompts, advance)
        steps.append((stage.name, tuple(prompts)))
        return result

    monkeypatch.setattr(LLMTrainer, "_step", noted)
    settings |= {"run_name": "again", "artifacts_dir": str(tmp_path / "b")}
    ends_at(LLMTrainer, "_step", call)
    with pytest.raises(Ended):
        run_recbole_soft(model, "toy", config_dict=settings)
    monkeypatch.setattr(LLMTrainer, "_step", noted)
    again = run_recbole_soft(model, "toy", config_dict={**settings, "resume": True})
    per_epoch = 32 // 8
    assert len(steps) == per_epoch * len(whole["record"]["curves"])
    assert curves(again) == curves(whole) and weights(again) == weights(whole)
    assert again["record"]["results"] == whole["record"]["results"]
    taus = [row["tau"] for row in curves(whole) if "tau" in row]
    assert not taus or taus[-1] < 1
    assert again["record"]["was_interrupted"] and not whole["record"]["was_interrupted"]
    assert not (tmp_path / "saved" / "again" / UNFINISHED).exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(toy_settings, tmp_path, ends_at, caplog):
    settings = toy_settings(**LLM, artifacts_dir=str(tmp_path / "a"))
    whole = run_recbole_soft("BIGRec_SFT", "toy", config_dict={**settings, "run_name": "whole"})
    settings |= {"run_name": "again", "artifacts_dir": str(tmp_path / "b")}
    ends_at(LLMTrainer, "_step", 7)
    with pytest.raises(Ended):
        run_recbole_soft("BIGRec_SFT", "toy", config_dict=settings)
    *_, last = sorted((tmp_path / "saved" / "again" / UNFINISHED / "training-sft").iterdir())
    content = bytearray((last / "tensors.safetensors").read_bytes())
    content[-5] ^= 8
    (last / "tensors.safetensors").write_bytes(content)
    again = run_recbole_soft("BIGRec_SFT", "toy", config_dict={**settings, "resume": True})
    assert f"{last} is damaged" in caplog.text
    assert curves(again) == curves(whole) and weights(again) == weights(whole)


def test_answers_that_were_written_are_not_generated_again(toy_settings, tmp_path, monkeypatch):
    settings = toy_settings(**{**LLM, "valid_sample": 16, "state": "INFO"}, run_name="mine", generation_batch_size=1)
    asked: list[int] = []
    lives: list[list[int]] = []
    original = model_base.generate

    def noted(model, prompts, *arguments, **named):
        if asked and len(lives) == 1:
            raise Ended
        asked.append(len(prompts))
        return original(model, prompts, *arguments, **named)

    monkeypatch.setattr(model_base, "generate", noted)
    for resume in (False, False, True):
        asked.clear()
        # The whole run's answers to the test would be there for the other two.
        settings["artifacts_dir"] = str(tmp_path / ("interrupted" if lives else "whole"))
        try:
            run_recbole_soft("BIGRec_ZeroShot", "toy", config_dict={**settings, "resume": resume})
        except Ended:
            assert len(lives) == 1
        lives.append(list(asked))
    assert lives[0][0] == 8 and lives[1] == [8] and lives[2] == lives[0][1:]
    assert "answers: 8 of " in log_of(settings)


def test_traditional_models_go_on_with_the_next_epoch(toy_settings, tmp_path, monkeypatch, ends_at):
    settings = toy_settings(epochs=5, stopping_step=2, checkpoint_seconds=0)
    whole = run_recbole_soft("SASRec", "toy", config_dict={**settings, "run_name": "whole"})
    settings["run_name"] = "again"
    ends_at(ResumableTraining, "_save_if_due", 4)
    with pytest.raises(Ended):
        run_recbole_soft("SASRec", "toy", config_dict=settings)
    epochs: list[int] = []
    original = ResumableTraining._saved_epoch

    def noted(self, data, epoch, *arguments, **named):
        epochs.append(epoch)
        return original(self, data, epoch, *arguments, **named)

    monkeypatch.setattr(ResumableTraining, "_saved_epoch", noted)
    again = run_recbole_soft("SASRec", "toy", config_dict={**settings, "resume": True})
    assert epochs[0] == 2 and len(again["record"]["curves"]) == len(whole["record"]["curves"])
    assert curves(again) == curves(whole) and weights(again) == weights(whole)
    assert again["record"]["results"] == whole["record"]["results"]
    assert not list((tmp_path / "saved").rglob("*.pth"))  # no pickle is written, and so none is read


def test_pretraining_of_the_embedded_model_goes_on(toy_settings, tmp_path, ends_at):
    settings = toy_settings(checkpoint_seconds=0, tiny_steps=8, epochs=1)
    run_recbole_soft("BIGRec_ZeroShot", "toy", config_dict={**settings, "artifacts_dir": str(tmp_path / "a")})
    settings["artifacts_dir"] = str(tmp_path / "b")
    ends_at(Checkpoints, "write", 6)
    with pytest.raises(Ended):
        run_recbole_soft("BIGRec_ZeroShot", "toy", config_dict=settings)
    steps: list[int] = []
    original = torch.nn.utils.clip_grad_norm_
    torch.nn.utils.clip_grad_norm_ = lambda *arguments: (steps.append(1), original(*arguments))[1]
    try:
        run_recbole_soft("BIGRec_ZeroShot", "toy", config_dict=settings)
    finally:
        torch.nn.utils.clip_grad_norm_ = original
    assert len(steps) == 3
    one, other = (next((tmp_path / place).glob("tiny-llm-*/model.safetensors")) for place in ("a", "b"))
    assert one.read_bytes() == other.read_bytes() and one.parent.name == other.parent.name


# ---- what the command says ---------------------------------------------------------------------------
@pytest.fixture
def interrupted(toy_settings, ends_at, capsys) -> dict:
    """Settings of a run that was interrupted in its second epoch."""
    settings = toy_settings(**LLM, run_name="mine", state="INFO", seed=next(SEEDS))  # else SFT weights are reused
    ends_at(LLMTrainer, "_step", 6)
    with pytest.raises(Ended):
        run_recbole_soft("BIGRec_SFT", "toy", config_dict=settings)
    capsys.readouterr()
    return settings


def command(settings: dict, *words: str) -> int:
    return cli.main([*words_of(settings, "BIGRec_SFT"), *words])


def log_of(settings: dict) -> str:
    return (Path(settings["checkpoint_dir"]) / "mine" / "run.log").read_text()


@pytest.mark.parametrize("flag", ["--resume", "--resume=True"])
def test_the_flag_goes_on_and_then_shows_what_is_finished(interrupted, flag):
    assert command(interrupted, flag) == 0
    assert "stage 'sft' goes on in epoch 2 after 1 batches" in log_of(interrupted)
    record = Path(interrupted["checkpoint_dir"]) / "mine" / "run.json"
    before = record.read_bytes()
    assert command(interrupted, flag) == 0
    assert "this run is finished already" in log_of(interrupted) and record.read_bytes() == before


def test_without_the_flag_and_a_terminal_it_starts_anew_and_says_so(interrupted):
    assert command(interrupted) == 0
    log = log_of(interrupted)
    assert "is given up: --resume would have gone on with it" in log and "goes on in epoch" not in log


@pytest.mark.parametrize(("answer", "goes_on"), [("\n", True), ("y\n", True), ("no\n", False)])
def test_on_a_terminal_it_asks(interrupted, monkeypatch, capsys, answer, goes_on):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: answer, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert command(interrupted) == 0
    assert "The same run was interrupted" in capsys.readouterr().err
    assert ("goes on in epoch" in log_of(interrupted)) == goes_on


def test_other_settings_are_refused_by_name(interrupted, capsys):
    assert command({**interrupted, "learning_rate": 0.1}, "--resume") == 2
    message = capsys.readouterr().err
    assert "learning_rate was 0.003, is 0.1" in message and "leave out --resume" in message
    assert command(interrupted, "--resume") == 0  # the interrupted run is still there


def test_nothing_to_go_on_with_is_no_mistake(toy_settings):
    settings = toy_settings(**LLM, run_name="mine", state="INFO", epochs=1)
    assert command(settings, "--resume") == 0
    assert "nothing to go on with" in log_of(settings)


def test_two_runs_in_one_folder(toy_settings, monkeypatch, capsys):
    settings = toy_settings(**LLM, run_name="mine", epochs=1)
    original, codes = LLMTrainer.fit, []

    def fit(self, *arguments, **named):
        codes.append(command(settings))
        return original(self, *arguments, **named)

    monkeypatch.setattr(LLMTrainer, "fit", fit)
    assert command(settings) == 0 and codes == [2]
    message = capsys.readouterr().err
    assert "another process is at work in this folder: process" in message and "--run_name=NAME" in message
    record = json.loads((Path(settings["checkpoint_dir"]) / "mine" / "run.json").read_text())
    assert record["results"]


def test_a_finished_run_is_not_shown_once_what_it_read_has_changed(tmp_path):
    adapter, run = tmp_path / "adapter", tmp_path / "run"
    for folder in (adapter, run):
        folder.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    write_json(run / "run.json", {"config": {"settings_key": "k"}, "data": {"test": "w"}, "tested": True})
    config = defaultdict(lambda: None, settings_key="k", sft_adapter=str(adapter), llm_path="some-org/some-model")
    assert finished_record(run, config, {"test": "w"})["tested"]
    assert finished_record(run, config, {"test": "other"}) is None
    later = (run / "run.json").stat().st_mtime + 1
    os.utime(adapter / "adapter_model.safetensors", (later, later))
    assert finished_record(run, config, {"test": "w"}) is None
