"""What a run leaves for those who want to know where hits come from: popularity, history, answers, examples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from recbole_soft import cli
from recbole_soft.run import run_recbole_soft


@pytest.fixture(scope="module")
def told(toy_path, shared_artifacts, tmp_path_factory):
    """A SOFT run with four examples, and a run of Pop on the same windows: their folders."""
    base = {"data_path": str(toy_path), "checkpoint_dir": str(tmp_path_factory.mktemp("told")),
            "artifacts_dir": str(shared_artifacts), "show_progress": False, "state": "WARNING",
            "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)", "topk": [1, 5, 10, 20],
            "valid_sample": 16, "test_sample": 24, "epochs": 2}
    llm = {"train_sample": 64, "train_batch_size": 16, "micro_batch_size": 8, "tiny_hidden_size": 32, "tiny_layers": 2,
           "tiny_heads": 2, "tiny_vocabulary": 400, "tiny_steps": 20, "tiny_batch_size": 8, "max_new_tokens": 8,
           "num_beams": 2, "examples": 4}
    results = [run_recbole_soft("BIGRec_SOFT", "toy", config_dict={**base, **llm}),
               run_recbole_soft("Pop", "toy", config_dict=base)]
    return [Path(result["record_path"]).parent for result in results]


def rows_of(folder: Path, stage: str) -> list[dict[str, str]]:
    with (folder / f"ranks_{stage}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_window_says_its_target_its_history_and_the_targets_popularity(told, toy_path):
    rows = rows_of(told[0], "soft")
    counts = [int(row["popularity"]) for row in rows]
    # 40 users with 16 interactions have 6 windows each; the first 8 of 10 in time are for training.
    windows, interactions = [], {}
    for line in (toy_path / "toy" / "toy.inter").read_text().splitlines()[1:]:
        user, item, time = line.split("\t")
        interactions.setdefault(user, []).append((float(time), item))
    for sequence in interactions.values():
        windows += sorted(sequence)[10:]
    windows.sort()
    training = [item for _, item in windows[: int(0.8 * len(windows))]]
    assert len(rows) == 24 and {row["history"] for row in rows} == {"10"}
    assert counts == [training.count(row["target"]) for row in rows] and max(counts) > 0
    same = [[{**row, "rank": None} for row in rows_of(folder, stage)]
            for folder, stage in ((told[0], "sft"), (told[0], "soft"), (told[1], "test"))]
    assert same[0] == same[1] == same[2]


def test_examples_agree_with_ranks_and_with_the_rule_of_grounding(told):
    record = json.loads((told[0] / "run.json").read_text(encoding="utf-8"))
    for result in record["results"]:
        lines = lines_of(told[0] / result["examples_file"])
        rows = rows_of(told[0], result["stage"])
        assert [line["window"] for line in lines] == [0, 1, 2, 3]
        for line in lines:
            assert line["rank"] == int(rows[line["window"]]["rank"])
            distances = [near["distance"] for near in line["nearest"]]
            assert distances == sorted(distances) and len(line["nearest"]) == 5 and len(line["answers"]) == 1
            assert len(line["history"]) == 10 and line["prompt"].rstrip().endswith("### Response:")
            assert f'"{line["history"][-1]}"' in line["prompt"]
            known = {near["title"] for near in line["nearest"] if not near["is_candidate"]}
            assert known >= {near["title"] for near in line["nearest"]} & set(line["history"]) - {line["target"]}
            candidates = [near["title"] for near in line["nearest"] if near["is_candidate"]]
            if line["target"] in candidates:
                assert line["rank"] == 1 + candidates.index(line["target"])
            elif candidates:
                assert line["target_distance"] >= distances[-1] and line["rank"] > len(candidates)


def test_figures_about_answers_are_those_of_the_test_windows(told):
    record = json.loads((told[0] / "run.json").read_text(encoding="utf-8"))
    for result in record["results"]:
        figures = result["answers"]
        assert figures["windows"] == 24 and 1 <= figures["distinct_answers"] <= 24
        assert 0 <= figures["valid_titles"] <= 1 and figures["hr_at_1"] <= figures["category_accuracy"] <= 1
        # What is nearest to a target's own title has rank 1, so hits can only be lost to masked titles before it.
        assert figures["hr_at_1"] <= result["metrics"]["HR@1"]["value"]
    assert "answers" not in json.loads((told[1] / "run.json").read_text(encoding="utf-8"))["results"][0]


def test_the_run_folder_shows_some_self_distilled_answers(told):
    lines = lines_of(told[0] / "examples_distilled.jsonl")
    assert len(lines) == 4 and list(lines[0])[:4] == ["window_id", "prompt", "target", "answer"]


def test_examples_can_be_switched_off_and_do_not_change_the_run(told, toy_settings, tmp_path):
    record = json.loads((told[0] / "run.json").read_text(encoding="utf-8"))
    config = {**record["config"], "epochs": 1}
    settings = toy_settings(**{key: config[key] for key in (
        "valid_sample", "test_sample", "train_sample", "epochs", "train_batch_size", "num_beams", "max_new_tokens")})
    result = run_recbole_soft("BIGRec_SFT", "toy", config_dict={**settings, "examples": 0})
    folder = Path(result["record_path"]).parent
    assert not list(folder.glob("examples_*")) and "examples_file" not in result["record"]["results"][0]
    assert result["record"]["results"][0]["answers"]["windows"] == 24
    again = run_recbole_soft("BIGRec_SFT", "toy", config_dict={**settings, "examples": 2})
    assert Path(again["record_path"]).parent == folder  # not a setting that decides results
    assert again["record"]["results"][0]["metrics"] == result["record"]["results"][0]["metrics"]


def test_the_report_shows_what_the_runs_tell(told, tmp_path):
    out = tmp_path / "report.html"
    assert cli.main(["report", f"--runs={told[0]},{told[1]}", f"--out={out}"]) == 0
    text = out.read_text(encoding="utf-8")
    for heading in ("Results", "Training curves", "Answers of the language models", "Where hits come from", "Examples"):
        assert f"<h2>{heading}</h2>" in text
    example = lines_of(told[0] / "examples_soft.jsonl")[0]
    assert example["target"] in text and example["nearest"][0]["title"] in text
    assert "By popularity of the target" in text
