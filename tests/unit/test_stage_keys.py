"""The key of kept weights: no setting may be forgotten, and none that decides nothing may part what is equal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recbole_soft.config.schema import SETTINGS
from recbole_soft.registry import STRATEGIES
from recbole_soft.strategies.base import Stage
from recbole_soft.strategies.sft import LOSS_SETTINGS
from recbole_soft.trainer.stage_weights import DECIDING_SETTINGS, StageWeights

# In the key by what they lead to: the language model, its tokenizer and template, the catalogue and the windows.
BY_CONTENT = {
    "llm", "llm_path", "llm_revision", "pad_token", "trust_remote_code", "prompt", "title_field", "category_field",
    "duplicate_titles", "protocol", "window", "sample_seed", "train_sample", "valid_sample",
    *(setting.name for setting in SETTINGS if setting.name.startswith("tiny_"))}
# After the training, about the test alone, places and speed; given weights are told by themselves.
DECIDES_NO_WEIGHTS = {
    "injection", "injection_gamma", "injection_model_file", "test_sample", "examples", "artifacts_dir",
    "checkpoint_seconds", "resume", "run_name", "world_size", "shard_model", "embed_batch_tokens", "sft_adapter"}


SCHEDULE = {"schedule": "constant", "tau": 0.5, "alpha": 1.0}


def test_every_setting_is_in_the_key_or_known_to_decide_nothing():
    """Whoever adds a setting says here, or in the key, what it decides."""
    groups = [{*DECIDING_SETTINGS, *LOSS_SETTINGS}, BY_CONTENT, DECIDES_NO_WEIGHTS]
    known = {setting.name for setting in SETTINGS}
    assert known - set().union(*groups) == set()
    assert known >= BY_CONTENT | DECIDES_NO_WEIGHTS, "a setting that is gone"
    assert sum(map(len, groups)) == len(set().union(*groups)), "a setting stands in one group"


def test_the_loss_is_in_the_key_of_every_stage_that_is_kept():
    config = {setting.name: setting.default for setting in SETTINGS}
    kept = [(component, stage) for component in STRATEGIES.components()
            for stage in component.load()({**config, **{own.name: own.default for own in component.settings},
                                           **SCHEDULE}).stages() if stage.is_reusable]
    assert {component.name for component, _ in kept} >= {"SFT", "SOFT", "SDPO"}
    assert all(set(LOSS_SETTINGS) <= set(stage.depends_on) for _, stage in kept)


class Kept(Stage):
    name, depends_on = "sft", LOSS_SETTINGS


class Model(SimpleNamespace):
    name = "BIGRec"


def key_of(changes: dict[str, Any] | None = None, deciding: dict[str, Any] | None = None, prompt: int = 1) -> str:
    config = dict.fromkeys((*DECIDING_SETTINGS, *LOSS_SETTINGS, "sft_adapter"), None)
    config |= {"device": torch.device("cpu"), **(changes or {})}
    model = Model(
        deciding=lambda: deciding or {}, catalog=SimpleNamespace(fingerprint="c"), base_fingerprint="b",
        backbone=SimpleNamespace(tokenizer=SimpleNamespace(fingerprint="t")),
        encoder=SimpleNamespace(template=SimpleNamespace(fingerprint="e")))
    return StageWeights(model, config).key(Kept(), SimpleNamespace(prompts=[[prompt]], targets=[[2]]), None)


@pytest.mark.parametrize("name", [*DECIDING_SETTINGS, *LOSS_SETTINGS])
def test_a_deciding_setting_changes_the_key(name):
    assert key_of({name: "other"}) != key_of()


def test_windows_and_what_a_model_adds_change_the_key_and_nothing_else_does():
    assert len({key_of(), key_of(prompt=3), key_of(deciding={"curriculum": "linear"})}) == 3
    assert key_of({"test_sample": 5, "run_name": "x"}) == key_of()


def test_given_weights_are_told_by_themselves_and_not_by_their_training(tmp_path):
    (tmp_path / "adapter.safetensors").write_bytes(b"weights")
    given = {"sft_adapter": str(tmp_path)}
    first = key_of(given)
    assert key_of(given | {"epochs": 3}) == first != key_of()
    (tmp_path / "adapter.safetensors").write_bytes(b"others")
    assert key_of(given) != first
