"""Opening a finished run: from another folder, after it was moved, and when what it needs has changed or is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recbole_soft import load_recommender
from recbole_soft.errors import UserError
from recbole_soft.recommend.finished_run import read_run
from tests.recommend.conftest import write_data


@pytest.fixture
def moved(home: Path, tmp_path: Path):
    """Copies a run, and what lies beside it if asked, to another place; gives the new run folder."""

    def move(run: Path, *beside: str) -> Path:
        saved = tmp_path / "elsewhere" / "saved"
        for name in (run.name, *beside):
            shutil.copytree(run.parent / name, saved / name)
        return saved / run.name

    return move


def change_record(run: Path, **entries) -> None:
    record = json.loads((run / "run.json").read_text())
    for path, value in entries.items():
        *parents, last = path.split("__")
        place = record
        for parent in parents:
            place = place[parent]
        place[last] = value
    (run / "run.json").write_text(json.dumps(record))


def refusal(run: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_recommender(run, **options)
    assert caught.value.where and caught.value.remedy
    return str(caught.value)


# ---- places ----------------------------------------------------------------------------------------
def test_a_run_knows_its_data_and_model_from_any_working_folder(soft, sasrec, home, tmp_path):
    """The runs were started in `home` with relative paths; every test here starts in a folder of its own."""
    assert Path.cwd() == tmp_path
    assert soft._opened.dataset.dataset_path == str(home / "dataset" / "toy")
    assert soft._opened.model.store.root == home / "saved" / "artifacts"
    assert soft.run.record["user_settings"].get("data_path") is None


def test_a_run_moved_with_its_artefacts_answers_as_before(soft, soft_run, moved, home):
    there = moved(soft_run, "artifacts")
    again = load_recommender(there, data_path=home / "dataset")
    assert again._opened.model.store.root == there.parent / "artifacts"
    assert again.recommend(user_id="u5") == soft.recommend(user_id="u5")


def test_an_embedded_model_that_is_gone_is_made_again(soft, soft_run, moved, home):
    there = moved(soft_run)
    change_record(there, working_folder=None)
    again = load_recommender(there, data_path=home / "dataset")
    assert again.recommend(user_id="u5", stage="sft") == soft.recommend(user_id="u5", stage="sft")
    assert list((there.parent / "artifacts").glob("tiny-llm-*"))


def test_recorded_paths_are_found_where_they_are_today(soft_run, moved, tmp_path):
    there = moved(soft_run)
    run = read_run(there)
    (there.parent / "SASRec-x").mkdir()
    assert run.path("saved/SASRec-x") == str(there.parent / "SASRec-x")
    assert run.path("saved/nothing") == "saved/nothing"
    change_record(there, config__checkpoint_dir="/then/saved")
    assert read_run(there).path("/then/saved/SASRec-x") == str(there.parent / "SASRec-x")


# ---- what is gone or has changed -------------------------------------------------------------------
def test_folders_without_a_finished_run(home, tmp_path, soft_run, moved):
    assert "no such run folder" in refusal(tmp_path / "nothing")
    assert soft_run.name in refusal(home / "saved") and "no run in this folder" in refusal(home / "saved")
    there = moved(soft_run)
    (there / "run.json").unlink()
    assert "has not finished" in refusal(there)
    (there / "run.json").write_text('{"model": "BIGRec_SOFT"')
    assert "cannot be read" in refusal(there)
    (there / "run.json").write_text('{"model": 3}')
    assert "cannot be read" in refusal(there)


def test_stages(soft_run, sasrec_run, moved, home):
    assert "did you mean soft" in refusal(soft_run, stage="sotf")
    assert "the run has one result" in refusal(sasrec_run, stage="sft")
    there = moved(soft_run, "artifacts")
    shutil.rmtree(there / "soft")
    message = refusal(there, data_path=home / "dataset")
    assert "weights of stage 'soft' are gone" in message and "--stage=sft" in message
    assert load_recommender(there, stage="sft", data_path=home / "dataset").recommend(user_id="u1").stage == "sft"


@pytest.mark.parametrize(("file", "old", "new", "expected"), [
    ("toy.inter", "", "u1\ti3\t5000\n", "interactions of 'toy' have changed since the run: 642 rows now, 641 then"),
    ("toy.inter", "u1\ti10\t3001", "u1\ti11\t3001", "interactions of 'toy' have changed since the run (interactions"),
    ("toy.item", "dune", "dome", "items of 'toy' are not those that the run was trained on: as many, but others"),
    ("toy.inter", "i5\t", "i4\t", "items of 'toy' are not those that the run was trained on: 23 now, 24 then"),
])
def test_data_that_have_changed(sasrec_run, tmp_path, file, old, new, expected):
    write_data(tmp_path / "new" / "toy")
    path = tmp_path / "new" / "toy" / file
    text = path.read_text()
    path.write_text(text.replace(old, new) if old else text + new)
    assert expected in refusal(sasrec_run, data_path=tmp_path / "new")


def test_data_that_are_nowhere(sasrec_run, moved, tmp_path):
    there = moved(sasrec_run)
    change_record(there, working_folder=None)
    assert "data set 'toy' was not found" in refusal(there)


def test_weights_that_are_gone_or_cut_short(sasrec_run, moved, home):
    there = moved(sasrec_run)
    weights = there / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "weights of SASRec cannot be used" in refusal(there, data_path=home / "dataset")
    weights.unlink()
    assert "No such file" in refusal(there, data_path=home / "dataset")


def test_another_language_model_is_refused(soft_run, tmp_path, home):
    from tests.toys import toy_model, toy_titles, toy_tokenizer

    folder = tmp_path / "llm"
    toy_model("llama", 400).save_pretrained(folder)
    toy_tokenizer(toy_titles(24) * 3).save_pretrained(folder)
    assert "not the one that the run was trained on" in refusal(soft_run, llm_path=folder)
    assert "there is no such folder" in refusal(soft_run, llm_path=tmp_path / "gone")


def test_code_of_a_language_model_runs_only_where_it_is_trusted_again(soft_run, moved, home):
    there = moved(soft_run, "artifacts")
    change_record(there, user_settings__trust_remote_code=True)
    assert "--trust_remote_code=True, if you trust it" in refusal(there, data_path=home / "dataset")
    assert load_recommender(there, data_path=home / "dataset", trust_remote_code=True).stages


def test_defaults_that_have_changed_are_put_back(soft_run, soft, moved, home, caplog):
    there = moved(soft_run, "artifacts")
    change_record(there, config__length_penalty=2.5, config__mask_history="none", protocol__mask_history="none")
    with caplog.at_level("WARNING", logger="recbole_soft"):
        again = load_recommender(there, data_path=home / "dataset")
    assert "its own are used: length_penalty=2.5, mask_history=none" in caplog.text
    assert again._opened.config["length_penalty"] == 2.5
    assert len(again.recommend(user_id="u5", top=24)) == 24 > len(soft.recommend(user_id="u5", top=24))
