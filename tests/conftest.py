"""Fixtures: small language models and a toy data set with a planted rule. No network, one torch thread."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

import recbole_soft  # noqa: F401  (mends RecBole before any test imports it)
from tests.toys import write_toy_dataset

torch.set_num_threads(1)
# The same examples every time, so that a change is blamed for what it broke; HYPOTHESIS_PROFILE=default searches on.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every test starts from the same seeds, in its own folder, and leaves the process as it was."""
    random.seed(0)
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pytest"])
    dtype = torch.get_default_dtype()
    yield
    assert torch.get_default_dtype() == dtype


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data_path` that holds the data set `toy`: every item is followed by its successor."""
    root = tmp_path_factory.mktemp("data")
    write_toy_dataset(root / "toy")
    return root


@pytest.fixture(scope="session")
def shared_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artefact store shared by the tests, so that the embedded LLM of `toy` is made once."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture
def toy_settings(toy_path: Path, shared_artifacts: Path, tmp_path: Path) -> Callable[..., dict]:
    """Settings of a run that takes seconds; keyword arguments override."""

    def make(**changes) -> dict:
        return {
            "data_path": str(toy_path), "checkpoint_dir": str(tmp_path / "saved"),
            "artifacts_dir": str(shared_artifacts), "show_progress": False, "state": "WARNING",
            "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)",
            "train_sample": 64, "valid_sample": 16, "test_sample": 24, "epochs": 2, "train_batch_size": 16,
            "micro_batch_size": 8, "tiny_hidden_size": 32, "tiny_layers": 2, "tiny_heads": 2, "tiny_vocabulary": 400,
            "tiny_steps": 20, "tiny_batch_size": 8, "max_new_tokens": 8, "num_beams": 2,
            "topk": [1, 5, 10, 20], **changes,
        }

    return make
