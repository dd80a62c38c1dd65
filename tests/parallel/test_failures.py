"""A process that fails ends all of them at once, with one message; launches that cannot work are refused."""

from __future__ import annotations

import json
import re

import pytest

from recbole_soft import cli
from recbole_soft.errors import SettingError
from recbole_soft.parallel.launch import Launch, asks_for_shards, check_launch
from recbole_soft.parallel.launch import launch as read_launch

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
            "MASTER_PORT": "29500"}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return tmp_path_factory.mktemp("failures")


@pytest.mark.parametrize(("how", "message"), [
    ("exception", "ValueError: the third step is broken"),
    ("kill", "exitcode  : -9"),  # a killed process says nothing; torchrun does
])
def test_a_broken_process_ends_all_with_one_message(launch, small, artifacts, how, message):
    ended = launch([small(artifacts / how, "BIGRec_SFT", fail=how, checkpoint_seconds=0)])
    assert ended.code != 0
    assert ended.text.count(message) == 1, ended.text
    # torchrun's own summary holds a traceback of torchrun.
    ours = re.findall(r"^(?:error: .*|\w*Error: .*)", ended.text, re.MULTILINE)
    assert len(ours) <= 1, ended.text
    assert ended.text.count("Traceback") == (2 if how == "exception" else 1)
    assert not (artifacts / how / "run" / "run.json").exists()


def test_one_process_goes_on_where_a_killed_one_ended_two(artifacts, small):
    """Uses what the test above leaves: a checkpoint after two steps."""
    records = []
    for name, changes in (("kill", {"resume": True}), ("whole", {})):
        settings = small(artifacts / name, "BIGRec_SFT", checkpoint_seconds=0, **changes)
        if name == "whole":
            settings["artifacts_dir"] = str(artifacts / "other")
        assert cli.main([f"--{key}={value}" for key, value in settings.items()]) == 0
        records.append(json.loads((artifacts / name / "run" / "run.json").read_text()))
    assert [record["was_interrupted"] for record in records] == [True, False]
    assert records[0]["results"] == records[1]["results"]
    losses = [[row["loss_total"] for row in record["curves"]] for record in records]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_another_number_of_processes_than_asked_for_is_refused(toy_settings, capsys):
    words = {"model": "BIGRec_SFT", "dataset": "toy", **toy_settings(world_size=3)}
    assert cli.main([f"--{key}={value}" for key, value in words.items()]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: world_size = 3, and this run has 1 process\n")
    assert "torchrun --nproc_per_node=3" in message


@pytest.mark.parametrize(("asked", "is_llm", "environment", "expected"), [
    (2, True, {}, "world_size = 2, and this run has 4 processes"),
    (None, False, {}, "SASRec is trained by one process"),
    (4, True, {"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
    (4, True, {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS = true"),
    (4, True, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "= cpu is not"),
    (4, True, {"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision = bf16"),
])
def test_launches_that_cannot_work_are_refused(asked, is_llm, environment, expected):
    with pytest.raises(SettingError, match=expected) as caught:
        check_launch(Launch(1, 4, 1, 2), asked, "SASRec", is_llm, environment)
    assert caught.value.where and caught.value.remedy


def test_a_launch_that_can_work_is_not_refused():
    check_launch(Launch(1, 4, 1, 2), 4, "BIGRec_SFT", True, {"ACCELERATE_USE_FSDP": "false",
                                                             "ACCELERATE_MIXED_PRECISION": "no"})
    check_launch(Launch(), None, "SASRec", False, {})
    check_launch(Launch(1, 4, 1, 2), 4, "BIGRec_SFT", True, {"ACCELERATE_USE_FSDP": "true",
                                                             "FSDP_OFFLOAD_PARAMS": "false"})


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, False), ({"ACCELERATE_USE_FSDP": "true"}, True), ({"ACCELERATE_USE_FSDP": "false"}, False),
    ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, True),
    ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, False),
])
def test_what_accelerate_calls_a_model_in_pieces(environment, expected):
    assert asks_for_shards(environment) is expected


@pytest.mark.parametrize(("setting", "by_accelerate"), [
    ({"tuning": "full", "shard_model": True}, False), ({"quantization": "4bit", "shard_model": True}, False),
    ({"tuning": "full"}, True)])
def test_pieces_are_of_frozen_plain_weights(toy_settings, capsys, monkeypatch, setting, by_accelerate):
    if by_accelerate:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    words = {"model": "BIGRec_SFT", "dataset": "toy", **toy_settings(**setting)}
    assert cli.main([f"--{key}={value}" for key, value in words.items()]) == 2
    assert "do not go together" in capsys.readouterr().err


def test_the_environment_of_a_launcher_is_read():
    assert read_launch({}) == Launch(0, 1, 0, 1)
    assert read_launch(TORCHRUN) == Launch(1, 4, 1, 2)


@pytest.mark.parametrize("change", [{"RANK": "4"}, {"LOCAL_RANK": "2"}, {"WORLD_SIZE": "many"}, {"MASTER_PORT": ""}])
def test_an_environment_at_odds_with_itself_is_refused(change):
    with pytest.raises(SettingError, match="the launcher's variables"):
        read_launch(TORCHRUN | change)


@pytest.mark.parametrize(("chosen", "visible", "expected"), [
    ("0", None, "1"), ("0", "4,6", "6"), ("3,5", None, "5"), ("3,5", "4,6", "5"), ("", "4,6", "")])
def test_every_process_has_a_gpu_of_its_own(chosen, visible, expected):
    assert Launch(1, 4, 1, 2).gpu(chosen, visible) == expected
    assert Launch().gpu(chosen, visible) == chosen


@pytest.mark.parametrize("setting", ["nproc", "local_rank", "offset", "ip", "port"])
def test_the_settings_of_recboles_own_launcher_name_ours(toy_settings, capsys, setting):
    words = {"model": "BIGRec_SFT", "dataset": "toy", **toy_settings(**{setting: 2})}
    assert cli.main([f"--{key}={value}" for key, value in words.items()]) == 2
    assert "torchrun --nproc_per_node=2" in capsys.readouterr().err


def test_other_commands_are_the_work_of_one_process(monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("recbole_soft.parallel.group.GRACE_SECONDS", 0)
    assert cli.main(["prepare", "--help"]) == 2
    assert "'prepare' is the work of one process, and 4 were started" in capsys.readouterr().err
