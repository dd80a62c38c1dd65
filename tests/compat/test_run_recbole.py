"""RecBole's own entry points work from start to end once the shims are applied, without ray."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# What RecBole and its dependencies still warn of on today's libraries; harmless, see docs of each.
KNOWN_WARNINGS = (
    r"FutureWarning: `torch\.cuda\.amp\.GradScaler\(args\.\.\.\)` is deprecated",
    r"DeprecationWarning: __array_wrap__ must accept context and return_scalar arguments",
    r"UserWarning: The given NumPy array is not writable",
    r"Pandas4Warning: The inplace keyword in DataFrame\.\w+ is deprecated",
    # RecBole's init_logger opens a file per run and leaves closing it to the garbage collector.
    r"ResourceWarning: unclosed file .*\.log'",
    r"DeprecationWarning: distutils Version classes are deprecated",
)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = [sys.executable, str(Path(__file__).parent / "run_recbole_once.py")]
    folder = tmp_path_factory.mktemp("run_recbole")
    process = subprocess.run(script, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout)


def test_run_recbole_trains_and_evaluates(finished_run: dict[str, Any]):
    result = finished_run["test_result"]
    assert 0 < result["ndcg@10"] < 1
    assert 0 < result["itemcoverage@10"] <= 1


def test_load_data_and_model_gives_back_what_was_trained(finished_run: dict[str, Any]):
    assert finished_run["loaded_model"] == "SASRec"
    assert finished_run["weights_equal"]
    train_rows, valid_rows, test_rows = finished_run["loaded_rows"]
    assert train_rows > valid_rows == test_rows > 0


def test_the_import_hook_applied_the_shims_and_left(finished_run: dict[str, Any]):
    # Without the shims the run above would have failed.
    assert finished_run["watchers_left"] == []


def test_ray_is_never_imported(finished_run: dict[str, Any]):
    assert finished_run["ray_modules"] == []


def test_only_known_warnings_remain(finished_run: dict[str, Any]):
    known = re.compile("|".join(KNOWN_WARNINGS))
    assert [seen for seen in finished_run["warnings"] if not known.match(seen)] == []
