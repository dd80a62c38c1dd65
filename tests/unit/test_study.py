"""The trials of a search on disk: the same search twice, kills, pruning, failures. A formula stands in for runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from recbole_soft.errors import SettingError
from recbole_soft.tuning.report import caution, command, duration, trial_table
from recbole_soft.tuning.space import Parameter, SearchSpace
from recbole_soft.tuning.study import DONE, FAILED, PRUNED, PrunedError, Study

ROOT = Path(__file__).parents[2]
RANGE = (Parameter("alpha", "log", 0.1, 100.0), Parameter("lora_r", "choice", values=("4", "8", "16")))
GRID = (Parameter("alpha", "choice", values=("0.1", "1.0", "10.0")),)


def space(sampler: str = "tpe", parameters=RANGE, pruner: str = "none") -> SearchSpace:
    return SearchSpace("here", sampler, pruner, 20, parameters)


def open_study(folder: Path, searched: SearchSpace, seed: int = 7, larger: bool = True, identity: str = "x") -> Study:
    folder.mkdir(exist_ok=True)
    return Study(folder, searched, seed, larger, identity)


def formula(parameters) -> float:
    return float(parameters["alpha"]) / (1 + float(parameters["alpha"]) ** 2) + int(parameters.get("lora_r", 0)) / 1000


def go_on(study: Study, until: int, killed_in: int | None = None) -> None:
    while len(study.outcomes()) < until:
        with study.next_trial() as trial:
            if trial.number == killed_in:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGKILL)
            trial.after_epoch(0, formula(trial.parameters))
            trial.score = formula(trial.parameters)


def tried(study: Study) -> list[tuple]:
    return [(outcome.number, dict(outcome.parameters), outcome.score) for outcome in study.outcomes()]


def test_a_search_that_was_killed_has_the_trials_of_one_that_was_not(tmp_path):
    """Killed in the tenth trial, by when the sampler learns; the eight before are random."""
    code = ("from tests.unit.test_study import *; "
            f"go_on(open_study(Path({str(tmp_path / 'killed')!r}), space()), 11, killed_in=10)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    whole, killed = (open_study(tmp_path / name, space()) for name in ("whole", "killed"))
    assert len(killed.outcomes()) == 9
    for study in (whole, killed):
        go_on(study, 11)
    assert tried(whole) == tried(killed) and len({str(row[1]) for row in tried(whole)}) > 8


def test_a_combination_whose_trial_was_killed_is_not_skipped(tmp_path):
    study = open_study(tmp_path / "a", space("grid", GRID))
    go_on(study, 1)
    study._study.sampler = study._sampler(1)
    assert study._study.ask(study._distributions).params == {"alpha": "1.0"}  # left running, as by a kill
    study = open_study(tmp_path / "a", space("grid", GRID))
    go_on(study, 3)
    assert [outcome.parameters["alpha"] for outcome in study.outcomes()] == ["0.1", "1.0", "10.0"]


def test_seeds_differ(tmp_path):
    studies = [open_study(tmp_path / str(seed), space("random"), seed) for seed in (7, 8)]
    for study in studies:
        go_on(study, 1)
    assert tried(studies[0]) != tried(studies[1])


def test_a_grid_tries_every_combination_in_order(tmp_path):
    study = open_study(tmp_path / "a", space("grid", GRID))
    assert study.planned(20) == 3
    go_on(study, 3)
    assert [float(outcome.parameters["alpha"]) for outcome in study.outcomes()] == [0.1, 1.0, 10.0]
    assert study.best().number == 2


@pytest.mark.parametrize(("larger", "best"), [(True, 3), (False, 1)])
def test_the_best_is_the_earliest_of_equal_ones_in_the_metrics_direction(larger, best, tmp_path):
    study = open_study(tmp_path / "a", space(), larger=larger)
    for score in (0.1, 0.2, 0.3, 0.3, 0.1):
        with study.next_trial() as trial:
            trial.score = score
    assert study.best().number == best
    rows = trial_table(study.outcomes(), "hit@10", larger).splitlines()[3:-1]
    assert [row.split()[0] for row in rows] == (["3", "4", "2", "1", "5"] if larger else ["1", "5", "2", "3", "4"])


def test_a_trial_that_lags_behind_is_cut_short(tmp_path):
    study = open_study(tmp_path / "a", space(pruner="median"))
    for good in (0.5, 0.5, 0.5, 0.5, 0.1, 0.9):
        with study.next_trial() as trial:
            for epoch in range(4):
                trial.after_epoch(epoch, good)
            trial.score = good
    states = [(outcome.state, outcome.epochs, outcome.score) for outcome in study.outcomes()]
    assert states == [(DONE, 4, 0.5)] * 4 + [(PRUNED, 2, 0.1), (DONE, 4, 0.9)]
    assert study.best().score == 0.9


def test_failed_trials_are_not_tried_again_and_broken_off_ones_are(tmp_path):
    study = open_study(tmp_path / "a", space())
    with study.next_trial() as trial:
        trial.fail("ValueError: loss is nan")
    with pytest.raises(KeyboardInterrupt), study.next_trial() as trial:
        broken_off = trial.parameters
        raise KeyboardInterrupt
    study = open_study(tmp_path / "a", space())
    assert [outcome.state for outcome in study.outcomes()] == [FAILED]
    with study.next_trial() as trial:
        assert (trial.number, trial.parameters) == (2, broken_off)
        with pytest.raises(PrunedError):
            raise PrunedError
        trial.score = 0.1
    assert study.best().number == 2
    assert trial_table(study.outcomes(), "hit@10").splitlines()[-2].endswith(FAILED)


def test_a_folder_of_another_search_is_refused(tmp_path):
    open_study(tmp_path / "a", space())
    with pytest.raises(SettingError, match="a search of something else"):
        open_study(tmp_path / "a", space(), identity="y")


def test_parameters_come_back_exactly(tmp_path):
    study = open_study(tmp_path / "a", space("random"))
    with study.next_trial() as trial:
        words, value = trial.parameters, trial.inner.params["alpha"]
        trial.score = 0.5
    assert float(words["alpha"]) == value and study.outcomes()[0].parameters == words


def test_the_command_survives_a_shell(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/recbole-soft"])
    words = ["--model=BIGRec_SOFT", "--topk=[1, 5]", "--llm_path=/my models/it's"]
    line = command(words, {"alpha": "3.5"})
    assert line.startswith("recbole-soft ")
    shown = line.replace("recbole-soft", "printf '%s\\n'", 1)
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True)
    assert done.stdout.splitlines() == [*words, "--alpha=3.5"]


def test_figures_of_the_report(tmp_path):
    assert [duration(seconds) for seconds in (5, 99, 120, 7200)] == ["5 s", "99 s", "2 min", "2.0 h"]
    study = open_study(tmp_path / "a", space())
    for score in (0.5, 0.5):
        with study.next_trial() as trial:
            trial.score = score
    assert "this search decided nothing" in caution(study.outcomes(), study.best(), 100)
    for score in (0.46, 0.2):
        with study.next_trial() as trial:
            trial.score = score
    # (50 + 2) / 104 = 0.5 and sqrt(0.25 / 104) = 0.0490: the other 0.5 and 0.46 are within it
    assert "100 validation windows: 0.0490; other trials within it: 2" in caution(study.outcomes(), study.best(), 100)
