"""`tune` as a user runs it: artefacts shared, the test never read, the command at the end gives the best again."""

from __future__ import annotations

import csv
import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from recbole_soft import cli
from recbole_soft.errors import SettingError
from recbole_soft.reporting.records import find_runs
from recbole_soft.resuming.locks import only_process_in
from recbole_soft.run import run_recbole_soft
from recbole_soft.validation_only import SealedWindows, ValidationOnly
from tests.integration.conftest import words_of
from tests.toys import write_toy_dataset

GRID = "sampler: grid\npruner: none\nparameters:\n  alpha: {type: choice, values: [0.5, 50.0]}\n"
RATES = ("sampler: random\npruner: none\ntrials: 2\nparameters:\n"
         "  learning_rate: {type: log, low: 1.0e-4, high: 1.0e-2}\n")


@pytest.fixture
def tune(toy_settings, tmp_path, capsys, request):
    """Runs `tune` with a space; gives exit code, output and the study's folder."""
    def call(text: str = GRID, model: str = "BIGRec_SOFT", study: str = "s", options: tuple[str, ...] = (), **changes):
        space = tmp_path / "space.yaml"
        space.write_text(text)
        words = words_of(toy_settings(**{"epochs": 2, "valid_sample": 8, "test_sample": 8, **changes}), model)
        code = cli.main(["tune", *words, f"--space={space}", f"--study={study}", *options])
        output = capsys.readouterr()
        return code, output.out + output.err, tmp_path / "saved" / "tune" / study
    return call


def rows(folder: Path) -> list[dict]:
    with open(folder / "trials.csv") as file:
        return list(csv.DictReader(file))


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/run.json"))]


@pytest.fixture
def with_optuna():
    pytest.importorskip("optuna")


@pytest.mark.usefixtures("with_optuna")
def test_a_search_shares_artefacts_and_ends_with_a_command_that_gives_the_best_again(tune, tmp_path, capsys):
    code, output, folder = tune(artifacts_dir=str(tmp_path / "artifacts"), tiny_steps=5)
    assert code == 0
    trials = records(folder)
    assert [record["stages"]["sft"]["reused"] for record in trials] == [False, True]
    assert [record["notes"]["self_distilled_set"]["reused"] for record in trials] == [False, True]
    assert [record["config"]["alpha"] for record in trials] == [0.5, 50.0]
    for record in trials:
        assert not record["tested"] and record["results"] == [] and record["recbole_test_result"] == {}
    assert not [path for path in folder.glob("trials/**/*") if path.suffix in (".safetensors", ".pth")]
    best = max(rows(folder), key=lambda row: (float(row["hit@10"]), -int(row["trial"])))
    assert f"best: trial {best['trial']}" in output and "trial 1 of 2: alpha 0.5" in output
    line = output.strip().splitlines()[-1]
    assert line == (folder / "best_command.txt").read_text().strip()
    words = shlex.split(line)
    assert words[:2] == ["python", "run_recbole_soft.py"] and f"--alpha={best['alpha']}" in words
    assert cli.main(words[2:]) == 0
    capsys.readouterr()
    run, = (json.loads(path.read_text()) for path in (tmp_path / "saved").glob("BIGRec_SOFT-toy-*/run.json"))
    assert run["tested"] and run["best_valid_score"] == float(best["hit@10"]) and run["config"]["alpha"] == float(
        best["alpha"])
    assert run["stages"]["sft"]["reused"]
    assert [path.name for path in find_runs([tmp_path / "saved"])] == [Path(run["config"]["run_folder"]).name]


@pytest.mark.usefixtures("with_optuna")
def test_a_traditional_model_goes_on_where_it_was_and_repeats_nothing(tune, monkeypatch):
    settings = {"model": "SASRec", "text": RATES, "epochs": 1}
    assert tune(**settings)[0] == 0
    monkeypatch.setattr("recbole_soft.run._run", None)  # a trial that ran again would fail
    code, output, folder = tune(**settings)
    assert code == 0 and "2 trials are there from before" in output and len(rows(folder)) == 2
    monkeypatch.undo()
    code, output, folder = tune(**settings, study="again")
    pairs = [[(row["learning_rate"], row["hit@10"], row["epochs"]) for row in rows(folder.parent / name)]
             for name in ("s", "again")]
    assert pairs[0] == pairs[1] and len(set(pairs[0])) == 2


@pytest.mark.usefixtures("with_optuna")
def test_equal_values_are_not_trained_twice_and_failures_are_told(tune, monkeypatch):
    from recbole_soft import run

    once, calls = run._run_traditional, []

    def diverges_once(config, *rest):
        calls.append(config["learning_rate"])
        if len(calls) == 2:
            raise ValueError("Training loss is nan")
        return once(config, *rest)

    monkeypatch.setattr(run, "_run_traditional", diverges_once)
    space = "sampler: random\npruner: none\nparameters:\n  learning_rate: {type: choice, values: [0.001, 0.003]}\n"
    code, output, folder = tune(space, "SASRec", options=("--trials=5",), epochs=1)
    states = [row["state"] for row in rows(folder)]
    assert code == 0 and len(states) == 5 and len(calls) <= 3  # two rates, one of them once more after it failed
    assert states.count("failed") == 1 and "failed: ValueError: Training loss is nan" in output
    assert states[0] == "done" and ", as in trial 1" in output
    error = folder / "trials" / f"{states.index('failed') + 1:04d}" / "error.txt"
    assert "Traceback" in error.read_text() and str(error) in output


@pytest.mark.usefixtures("with_optuna")
def test_a_search_in_which_nothing_works_ends_at_once(tune, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no good")

    monkeypatch.setattr("recbole_soft.run._run", fails)
    with pytest.raises(RuntimeError, match="no good"):
        tune()


@pytest.mark.usefixtures("with_optuna")
def test_data_that_changed_end_a_search(tune, tmp_path):
    assert tune(RATES, "Pop", options=("--trials=1",), epochs=1)[0] == 0
    write_toy_dataset(tmp_path / "other" / "toy", seed=1)
    code, output, folder = tune(RATES, "Pop", epochs=1, data_path=str(tmp_path / "other"))
    assert code == 2 and "the data are no longer those that the search began with" in output
    assert len(rows(folder)) == 1


@pytest.mark.usefixtures("with_optuna")
def test_two_searches_in_one_study_at_once(tune, tmp_path):
    folder = tmp_path / "saved" / "tune" / "s"
    folder.mkdir(parents=True)
    with only_process_in(folder, "nothing"):
        code, output, _ = tune()
    assert code == 2 and "another process is at work in this folder" in output and "--study=NAME" in output


def test_without_optuna_the_extra_is_named(tune, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "optuna" else find(name, *rest))
    code, output, _ = tune()
    assert code == 2 and 'pip install "recbole_soft[tune]"' in output and "Traceback" not in output


@pytest.mark.parametrize(("words", "expected"), [
    (["--dataset=toy"], "--model is missing"), (["--model=Pop", "--dataset=ml-100k"], "Pop is not trained"),
    (["--model=BIGRec_SOFT", "--dataset=toy", "--trials=0"], "trials = 0"),
    (["--model=BIGRec_SOFT", "--dataset=toy", "--spaec=x"], "did you mean"),
    (["--model=BIGRec_SOFT", "--dataset=toy", "--study=a/b"], "not the name of a folder"),
    (["--model=BIGRec_SOFT", "--dataset=toy", "--space=nope"], "there is no search space 'nope'")])
def test_mistakes_in_the_words(words, expected, capsys):
    assert cli.main(["tune", *words]) == 2
    assert expected in capsys.readouterr().err


def test_help_names_the_shipped_spaces(capsys):
    assert cli.main(["tune", "--help"]) == 0
    assert "alpha_grid" in capsys.readouterr().out


# ---- runs that end before the test ---------------------------------------------------------------
class Untouchable:
    """A loader and data set that may be counted and identified and nothing else."""

    def __init__(self, loader):
        self._loader = loader

    @property
    def dataset(self):
        return self

    def __len__(self):
        return len(self._loader.dataset)

    def fingerprint(self):
        return self._loader.dataset.fingerprint()

    def __getattr__(self, name):
        raise AssertionError(f"the test windows were touched: {name}")

    def __iter__(self):
        raise AssertionError("the test windows were touched")


@pytest.fixture
def untouchable_test(monkeypatch):
    import recbole.data
    from recbole.data import data_preparation as original

    from recbole_soft.models import item_vectors

    def prepared(config, dataset):
        train, valid, test = original(config, dataset)
        return train, valid, Untouchable(test)

    monkeypatch.setattr(recbole.data, "data_preparation", prepared)
    monkeypatch.setattr(item_vectors, "data_preparation", prepared)


@pytest.mark.usefixtures("untouchable_test")
@pytest.mark.parametrize(("model", "changes"), [
    ("BIGRec_SOFT", {"injection": "popularity"}), ("BIGRec_ICL", {}), ("Rerank_ZeroShot", {"retriever": "Pop"}),
    ("LLaRA_SFT", {"rec_model_settings": {"epochs": 1}}), ("GRU4Rec", {}), ("Pop", {})])
def test_the_test_windows_are_never_read(model, changes, toy_settings, tmp_path):
    settings = toy_settings(epochs=1, artifacts_dir=str(tmp_path / "new"), tiny_steps=1, valid_sample=8, **changes)
    result = run_recbole_soft(model, "toy", config_dict=settings, validation_only=ValidationOnly())
    assert result["test_result"] == {} and not result["record"]["tested"]
    assert 0 <= result["best_valid_score"] <= 1 and "not tested" in result["table"]
    assert result["record"]["data"]["test_windows"] == 24 and not list(tmp_path.rglob("ranks_*.csv"))


@pytest.mark.usefixtures("untouchable_test")
def test_an_ordinary_run_would_have_touched_them(toy_settings):
    with pytest.raises((AssertionError, SettingError), match="the test windows were touched"):
        run_recbole_soft("Pop", "toy", config_dict=toy_settings())


def test_sealed_windows_cannot_be_read():
    class Loader(list):
        @property
        def dataset(self):
            return self

        def fingerprint(self):
            return "abc"

    sealed = SealedWindows(Loader([1, 2]))
    assert len(sealed.dataset) == 2 and sealed.dataset.fingerprint() == "abc"
    with pytest.raises(TypeError):
        iter(sealed)
    with pytest.raises(AttributeError):
        _ = sealed.inter_feat


def test_epochs_of_the_last_stage_are_reported(toy_settings):
    seen: list[tuple[int, float]] = []
    result = run_recbole_soft("BIGRec_SOFT", "toy", config_dict=toy_settings(),
                              validation_only=ValidationOnly(lambda *pair: seen.append(pair)))
    rows = [row for row in result["record"]["curves"] if row["stage"] == "soft"]
    assert [epoch for epoch, _ in seen] == [row["epoch"] for row in rows]
    assert [score for _, score in seen] == pytest.approx([row["valid_hit@10"] for row in rows])
    assert result["best_valid_score"] == pytest.approx(max(score for _, score in seen))


def test_a_gamma_is_judged_by_the_score_after_injection(toy_settings):
    settings = toy_settings(epochs=1, injection="popularity", valid_metric="NDCG@5")
    chosen = run_recbole_soft("BIGRec_SFT", "toy", config_dict=settings)["record"]["results"][0]["injection"]
    by_gamma = {float(gamma): value for gamma, value in chosen["values"].items()}
    assert by_gamma[0.0] != by_gamma[10.0]
    for gamma in (0.0, 10.0):
        result = run_recbole_soft("BIGRec_SFT", "toy", config_dict={**settings, "injection_gamma": gamma},
                                  validation_only=ValidationOnly())
        assert result["best_valid_score"] == pytest.approx(by_gamma[gamma], abs=1e-6)
        assert result["record"]["notes"]["injection"]["gamma"] == gamma
