"""Two processes do what one does: every loss, every weight, every rank."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from recbole_soft import cli

# Between them: both losses, both searches, ranks from vectors and from scores, companions, fewer windows than
# processes.
RUNS = {
    "soft": {"model": "BIGRec_SOFT", "lm_loss": "msl", "decoding": "constrained", "distance_sample": 11},
    "sdpo": {"model": "BIGRec_SDPO", "sdpo_epochs": 1, "sdpo_learning_rate": 0.01, "epochs": 1, "ranking": "beams"},
    "llara": {"model": "LLaRA_SFT", "llara_curriculum": "linear", "epochs": 1, "rec_model_settings": "{epochs: 1}",
              "test_sample": 1},
    "rerank": {"model": "Rerank_SFT", "retriever": "Pop", "epochs": 1, "rerank_candidates": 4, "tiny_layers": 3,
               "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def one(small, tmp_path_factory) -> Path:
    """Parent of the run folders of all runs in one process."""
    folder = tmp_path_factory.mktemp("one")
    for name, changes in RUNS.items():
        assert cli.main([f"--{key}={value}" for key, value in small(folder / name, **changes).items()]) == 0
    return folder


@pytest.fixture(scope="module", params=["whole", "in pieces"])
def folders(request, one, small, launch, tmp_path_factory) -> tuple[Path, Path, str]:
    """The same of runs in two processes, and what the two wrote; the second time each has half of the layers."""
    two, shared = tmp_path_factory.mktemp("two"), {"world_size": 2, "shard_model": request.param == "in pieces"}
    ended = launch([small(two / name, **shared, **changes) for name, changes in RUNS.items()])
    assert ended.code == 0, ended.text
    return one, two, ended.text


@pytest.mark.parametrize("name", RUNS)
def test_curves_and_results_are_those_of_one_process(folders, name):
    one, two = (json.loads((folder / name / "run" / "run.json").read_text()) for folder in folders[:2])
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["results"] == two["results"] and one["best_valid_score"] == two["best_valid_score"]
    assert len(one["curves"]) == len(two["curves"]) > 0
    for mine, theirs in zip(one["curves"], two["curves"], strict=True):
        timed = {key for key in mine if "second" in key}
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    assert one["notes"].keys() == two["notes"].keys()


def test_each_process_keeps_its_share_of_the_layers_alone(request, folders):
    """Two layers of width 32: attention 4 x 32 x 32, feed-forward, norms; in float32."""
    record = json.loads((folders[1] / "soft" / "run" / "run.json").read_text())
    sharding = record["language_model"].get("sharding")
    if "whole" in request.node.name:
        assert sharding is None
    else:
        assert sharding["processes"] == 2 and 0 < sharding["layers_mb"] < 0.06


def test_weights_answers_and_ranks_are_the_same_under_the_same_keys(folders):
    one, two = ({path.relative_to(folder): content(path) for pattern in ("*.safetensors", "*.jsonl", "ranks_*.csv")
                 for path in sorted(folder.rglob(pattern))} for folder in folders[:2])
    assert {path.parts[0] for path in one} == {*RUNS, "artifacts"} and one.keys() == two.keys()
    assert [str(path) for path in one if one[path] != two[path]] == []


def content(path: Path) -> object:
    """Bytes of a file; of safetensors those of every tensor, because their header has no fixed order."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    return {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in load_file(path).items()}


def test_soft_learned_something_that_could_differ(folders):
    """A tau below 1 and an odd number of test windows, else the tests above prove little."""
    record = json.loads((folders[1] / "soft" / "run" / "run.json").read_text())
    soft = [row for row in record["curves"] if row["stage"] == "soft"]
    assert soft[0]["tau"] == 1.0 and soft[0]["distance"] != soft[-1]["distance"]
    with open(folders[1] / "soft" / "run" / "ranks_soft.csv") as file:
        ranks = list(csv.DictReader(file))
    assert [int(row["window"]) for row in ranks] == list(range(15))


def test_one_process_writes_and_speaks(folders):
    _, two, text = folders
    assert text.count("method  ") <= len(RUNS) and "Traceback" not in text
    for name in RUNS:
        log = (two / name / "run" / "run.log").read_text()
        assert "ERROR" not in log
        left = [path.name for path in (two / name).rglob("*") if path.name.startswith(".") or path.name == "unfinished"]
        assert left == []


def test_another_run_goes_on_from_what_several_processes_made(folders, small):
    """Weights, tables and self-distilled answers are kept under the same keys."""
    settings = small(folders[1] / "soft", run_name="again", **RUNS["soft"])
    assert cli.main([f"--{key}={value}" for key, value in settings.items()]) == 0
    record: dict = json.loads((folders[1] / "soft" / "again" / "run.json").read_text())
    assert record["stages"]["sft"]["reused"] and record["notes"]["self_distilled_set"]["reused"]


