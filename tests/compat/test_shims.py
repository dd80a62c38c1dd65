"""Each shim mends what it says it mends, is still needed, and leaves every other library alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
RECBOLE = metadata.version("recbole")
HYPEROPT_INSTALLED = importlib.util.find_spec("hyperopt") is not None

# Per shim and symptom: what is seen without the shim (the start of it), and with it. The second is also what
# the old stack gives (numpy 1.26, pandas 2.3, scipy 1.12), checked with the same functions.
EXPECTED: dict[str, dict[str, tuple[str, str]]] = {
    "kmeans_stub": {"find_a_model": ("ModuleNotFoundError: No module named 'kmeans_pytorch'", "BPR")},
    "anomaly_mode": {
        "import_sequential_models": (
            "anomaly detection True after SASRec",
            "anomaly detection False after SASRec",
        ),
    },
    "numpy_names": {"make_a_config": ("AttributeError: `np.float_` was removed", "BPR")},
    "scipy_dok": {
        "build_graph": ("AttributeError: 'dok_matrix' object has no attribute '_update'", "[[0, 1], [1, 0]]"),
    },
    "pandas_agg_len": {
        "read_sequence_column": (
            "ValueError: Length of values (1) does not match length of index",
            "[array([], dtype=int64), array([1, 2]), array([1]), array([3]), array([3])]",
        ),
        "normalize_float_sequences": (
            "ValueError: Length of values (1) does not match length of index",
            "[array([], dtype=float64), array([0.  , 0.25]), array([1.]), array([0.5]), array([0.5])]",
        ),
        "measure_given_histories": (
            "ValueError: Length of values (1) does not match length of index",
            "[1, 2, 3]",
        ),
    },
    "pandas_frames": {
        "fill_missing_values": (
            "colour [-9223372036854775808, 1, 2, 0, 1], price [nan, 1.0, nan, 3.0, 5.0]",
            "colour [0, 1, 2, 0, 1], price [3.0, 1.0, 3.0, 3.0, 5.0]",
        ),
        "read_empty_sequence": (
            "AttributeError: 'float' object has no attribute 'split'",
            (
                "tags [array([], dtype=int64), array([1]), array([], dtype=int64), array([2]), array([2])], "
                "sizes [array([], dtype=float64), array([1., 2.]), array([], dtype=float64), array([2.]), "
                "array([1.])]"
            ),
        ),
    },
    "collector": {
        "collect_counts": (
            "AttributeError: 'int' object has no attribute 'cpu'",
            (
                "first ['data.count_items', 'data.num_items', 'rec.items'], "
                "second ['data.count_items', 'data.num_items'], copied True"
            ),
        ),
    },
    "hyperopt_rng": {
        "search_exhaustively": (
            "AttributeError: 'numpy.random.mtrand.RandomState' object has no attribute 'integers'",
            "best 0.3 of 3",
        ),
    },
    "ray_stub": {
        "import_quick_start_without_ray": ("ModuleNotFoundError: import of ray halted", "run_recbole")
    },
    "torch_load": {
        "resume_from_checkpoint": ("UnpicklingError: Weights only load failed", "epoch 5"),
        "load_a_checkpoint_with_code": (
            "UnpicklingError: Weights only load failed",
            "[1.0, 1.0], Unread_exec",
        ),
    },
    "flops_guard": {"count_operations_of_a_large_model": ("MemoryError: a second copy", "0")},
    "plain_strings": {
        "set_a_calculation": (
            "note 'executed', topk [5, 10], embedding_size -1, title True",
            """note "'exe' + 'cuted'", topk [5, 10], embedding_size '1-2', title True""",
        ),
        "search_among_calculations": (
            "[0.001, 0.0001], [1, 2]",
            "SyntaxError: not a literal: 'sorted([2, 1])'",
        ),
        "name_a_teacher": ("2", "ValueError: there is no class called '[1, 2].__len__()'"),
    },
    "pickled_caches": {
        "find_pickled_caches": ("SystemError: executed", "3 loaders"),
        "load_pickled_array": (
            "SystemError: executed",
            "[1.0, 1.0], Object arrays cannot be loaded when allow_pickle=False",
        ),
    },
    "yaml_loader": {
        "read_yaml_after_two_configs": (
            "2 new rules, RecBole reads 100000.0",
            "0 new rules, RecBole reads 100000.0",
        ),
    },
}
CASES = [(shim, symptom) for shim, symptoms in EXPECTED.items() for symptom in symptoms]


def why_not_needed(shim: str) -> str | None:
    """Why a shim has nothing to mend although the libraries are today's."""
    if shim == "kmeans_stub" and RECBOLE != "1.2.0":
        return "only RecBole 1.2.0 imports kmeans_pytorch at top level"
    if shim == "collector" and RECBOLE == "1.2.0":
        return "RecBole 1.2.0 does not move collected values to the CPU"
    if shim == "hyperopt_rng" and not HYPEROPT_INSTALLED:
        return "hyperopt is an extra and not installed"
    return None


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    script = [sys.executable, str(HERE / "before_and_after.py")]
    finished = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)


def test_every_shim_has_symptoms_and_every_symptom_an_expectation(report: dict[str, Any]):
    seen = {shim: set(observed["before"]) for shim, observed in report["shims"].items()}
    assert seen == {shim: set(symptoms) for shim, symptoms in EXPECTED.items()}


@pytest.mark.parametrize(("shim", "symptom"), CASES)
def test_symptom_is_there_without_the_shim(report: dict[str, Any], shim: str, symptom: str):
    if reason := why_not_needed(shim):
        pytest.skip(reason)
    seen = report["shims"][shim]["before"][symptom]
    assert seen.startswith(EXPECTED[shim][symptom][0]), (
        f"RecBole {RECBOLE} no longer shows what {shim} mends: see 'Can go when' in compat/{shim}.py"
    )


@pytest.mark.parametrize(("shim", "symptom"), CASES)
def test_symptom_is_gone_with_the_shim(report: dict[str, Any], shim: str, symptom: str):
    if shim == "hyperopt_rng" and not HYPEROPT_INSTALLED:
        pytest.skip("hyperopt is an extra and not installed")
    assert report["shims"][shim]["after"][symptom] == EXPECTED[shim][symptom][1]


@pytest.mark.parametrize("shim", list(EXPECTED))
def test_guard_applies_the_shim_where_it_is_still_needed_and_only_there(report: dict[str, Any], shim: str):
    assert report["shims"][shim]["applied"] == (why_not_needed(shim) is None)


def test_a_second_apply_changes_nothing(report: dict[str, Any]):
    assert report["second_apply_changes"] == []


def test_importing_the_package_imports_neither_torch_nor_numpy_nor_recbole(report: dict[str, Any]):
    assert report["imported_with_compat"] == []


def test_names_by_which_others_recognise_numpy_1_stay_absent(report: dict[str, Any]):
    assert report["side_effects"]["removed_numpy_names"] == []
    assert report["side_effects"]["numpy_aliases"]["float"] == "float64"


def test_torch_and_pandas_behave_as_ever_outside_recbole(report: dict[str, Any]):
    assert report["side_effects"]["torch_load_of_a_checkpoint"].startswith("UnpicklingError")
    assert report["side_effects"]["agg_len"] == "1"


def test_no_stand_in_stays_behind(report: dict[str, Any]):
    assert report["side_effects"]["stand_ins"] == []


def test_flops_of_models_that_do_not_ask_are_still_counted(report: dict[str, Any]):
    assert report["side_effects"]["flops_of_pop"] == 1


@pytest.mark.parametrize("shim", list(EXPECTED))
def test_docstring_says_what_a_reader_needs_to_delete_the_shim_one_day(shim: str):
    text = (HERE.parents[1] / "recbole_soft" / "compat" / f"{shim}.py").read_text(encoding="utf-8")
    docstring = text.split('"""')[1]
    for heading in ("Symptom:", "Where:", "Upstream:", "Guard:", "Can go when:"):
        assert f"\n{heading}" in docstring
