"""RecBole on today's libraries, with our shims, gives the numbers it gave on its old stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REFERENCE: dict[str, Any] = json.loads((HERE / "reference_old_stack.json").read_text(encoding="utf-8"))
MODELS = sorted(REFERENCE["models"])


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same script, run with the shims in a process of its own (RecBole changes global state)."""
    output = tmp_path_factory.mktemp("reference") / "today.json"
    script = [sys.executable, "-W", "ignore", str(HERE / "record_reference.py"), str(output), "--with-compat"]
    finished = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(output.read_text(encoding="utf-8"))


def test_reference_comes_from_the_libraries_recbole_was_made_for():
    versions = REFERENCE["versions"]
    assert versions["recbole"] == "1.2.1"
    assert versions["numpy"].startswith("1.")
    assert versions["pandas"].startswith("2.")


def test_both_runs_used_one_configuration(today: dict[str, Any]):
    for part in ("config", "dataset", "environment"):
        assert today[part] == REFERENCE[part]
    assert sorted(today["models"]) == MODELS


@pytest.mark.parametrize("model", MODELS)
def test_training_losses_are_those_of_the_old_stack(today: dict[str, Any], model: str):
    expected = REFERENCE["models"][model]["train_losses"]
    assert len(expected) == REFERENCE["models"][model]["model_config"].get(
        "epochs", 1 if model == "Pop" else 2
    )
    assert today["models"][model]["train_losses"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("model", MODELS)
def test_metrics_are_those_of_the_old_stack(today: dict[str, Any], model: str, split: str):
    expected = REFERENCE["models"][model][split]
    assert any(value > 0 for value in expected.values()), "a reference of zeros would prove nothing"
    assert today["models"][model][split] == pytest.approx(expected, rel=0, abs=1e-9)
