"""The loop of a search: trial after trial as runs that end with validation, until there are enough.

A trial is the very run that a command line with its parameters would make, but for the test, so the best one can be
had again by a command. Artefacts are shared with all other runs: an SFT stage is trained once for all alphas.
"""

from __future__ import annotations

import gc
import math
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_soft.artifacts import content_key, make_folder, write_text
from recbole_soft.config.schema import NOT_RESULTS
from recbole_soft.errors import DataError, SettingError, UserError
from recbole_soft.resuming.locks import only_process_in
from recbole_soft.tuning import report
from recbole_soft.tuning.space import SearchSpace
from recbole_soft.tuning.study import FAILED, PRUNED, Outcome, PrunedError, Study, Trial

# A search keeps figures of its trials, not their weights: the best is trained again by the command at the end.
WEIGHT_FILES = (".safetensors", ".pth", ".bin")
# What diverging values can end in: a loss that is not a number, memory that is not enough.
_TRIAL_FAILURES = (UserError, RuntimeError, ValueError)


class DataChangedError(DataError):
    """Trials before and after would not have been measured on the same windows."""


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        model, dataset, config_files: as of a run.
        command_line: the user's settings as `{key: text}`, without model and data set.
        words: the user's words, for the command at the end.
        space: fitted to the run.
        left_out: parameters that are not searched, with the reason.
        name: folder of the study; None to make one from the settings.
        seed: of the search, not of the runs.
    """

    model: str
    dataset: str
    config_files: Sequence[str]
    command_line: Mapping[str, str]
    words: Sequence[str]
    space: SearchSpace
    left_out: Mapping[str, str]
    name: str | None = None
    seed: int = 42


@dataclass(frozen=True)
class _Place:
    """Where things go: the study's folder, and the artefacts that trials share with other runs."""

    folder: Path
    artifacts: Path
    metric: str


def run_search(search: Search) -> tuple[Outcome | None, Path]:
    """Runs trials until there are as many as the space says; returns the best one and the study's folder.

    Raises:
        UserError: the study is another one or being searched by another process, or no trial works.
    """
    from recbole_soft import plugin
    from recbole_soft.config.soft_config import SoftConfig

    plugin.install()
    config = SoftConfig(search.model, search.dataset, search.config_files, {}, search.command_line)
    identity = content_key(space=search.space.deciding(), seed=search.seed, settings={
        key: value for key, value in config.final_config_dict.items() if key not in NOT_RESULTS})
    name = search.name or f"{search.model}-{search.dataset}-{identity[:8]}"
    root = Path(config["checkpoint_dir"])
    place = _Place(make_folder(root / "tune" / name), Path(config["artifacts_dir"] or root / "artifacts"),
                   config["valid_metric"].lower())
    with only_process_in(place.folder, "begin another study: --study=NAME"):
        study = Study(place.folder, search.space, search.seed, config["valid_metric_bigger"], identity)
        trials = study.planned(search.space.trials)
        _say(report.plan(f"{search.model} on {search.dataset}", search.space, search.left_out, trials, place.metric,
                         place.folder))
        if done := len(study.outcomes()):
            _say(f"{done} trials are there from before")
        while len(study.outcomes()) < trials:
            _one_trial(search, study, place, trials)
            report.write_trials(place.folder, study.outcomes(), place.metric)
        return _closing(search, study, place), place.folder


def _one_trial(search: Search, study: Study, place: _Place, trials: int) -> None:
    with study.next_trial() as trial:
        _say(report.began(trial.number, trials, trial.parameters))
        started = time.perf_counter()
        twin = next((outcome for outcome in study.outcomes()
                     if outcome.parameters == trial.parameters and outcome.state != FAILED), None)
        try:
            if twin is not None:  # the run is deterministic: it would end as before
                trial.note(same_as=twin.number)
                if twin.state == PRUNED:
                    trial.inner.report(twin.score, 0)
                    raise PrunedError
                trial.score = twin.score
            else:
                trial.score = _score(search, study, place, trial)
        except DataChangedError:
            raise
        except _TRIAL_FAILURES as error:
            if not any(outcome.state != FAILED for outcome in study.outcomes()):
                raise  # nothing has worked so far: the mistake is hardly one of the trial's values
            folder = _folder_of(place, trial)
            write_text(folder / "error.txt", traceback.format_exc())
            trial.fail(f"{type(error).__name__}: {str(error).splitlines()[0]} ({folder / 'error.txt'})")
        finally:
            trial.note(seconds=round(time.perf_counter() - started, 1))
            _tidy(_folder_of(place, trial))
    outcomes = study.outcomes()
    seconds = [outcome.notes["seconds"] for outcome in outcomes if "same_as" not in outcome.notes]
    left = (trials - len(outcomes)) * sum(seconds) / max(1, len(seconds))
    _say(report.ended(outcomes[-1], study.best(), place.metric, left))


def _score(search: Search, study: Study, place: _Place, trial: Trial) -> float:
    """Validation score of a trial's run.

    Raises:
        PrunedError: the run was cut short.
    """
    from recbole_soft.run import run_recbole_soft
    from recbole_soft.validation_only import ValidationOnly

    folder = _folder_of(place, trial)
    own = {"checkpoint_dir": str(folder.parent), "run_name": folder.name, "artifacts_dir": str(place.artifacts)}
    result = run_recbole_soft(
        search.model, search.dataset, search.config_files,
        command_line={**search.command_line, **trial.parameters, **own},
        validation_only=ValidationOnly(trial.after_epoch))
    data = {key: result["record"]["data"][key] for key in ("catalogue", "train", "valid", "valid_windows")}
    if study.fact("data", data) != data:
        raise DataChangedError("the data are no longer those that the search began with", where=search.dataset,
                        remedy="bring the files back, or begin another search: --study=NAME")
    score = float(result["best_valid_score"])
    if not math.isfinite(score):
        raise SettingError("the run was never validated", where="eval_step", remedy="--eval_step=1")
    return score


def _folder_of(place: _Place, trial: Trial) -> Path:
    return place.folder / "trials" / f"{trial.number:04d}"


def _tidy(folder: Path) -> None:
    """Frees what a trial leaves in memory and on disk but for its record, curves and log."""
    for path in [path for path in folder.rglob("*") if path.suffix in WEIGHT_FILES]:
        if path.parent == folder:
            path.unlink()
        else:  # the folder of a stage; what else is in it describes its weights
            shutil.rmtree(path.parent, ignore_errors=True)
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _closing(search: Search, study: Study, place: _Place) -> Outcome | None:
    outcomes, best = study.outcomes(), study.best()
    _say(report.trial_table(outcomes, place.metric, study.is_larger_better))
    _say(f"trials: {report.write_trials(place.folder, outcomes, place.metric)}")
    if best is None:
        _say("no trial ran to its end")
        return None
    command = report.command(search.words, best.parameters)
    write_text(place.folder / report.COMMAND_FILE, command + "\n")
    _say(report.caution(outcomes, best, study.fact("data", {})["valid_windows"]))
    _say(f"best: trial {best.number}, {place.metric} {best.score:.4f} on validation. To train it again and test it:\n"
         f"{command}")
    return best


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
