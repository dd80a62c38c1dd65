"""The trials of a search on disk, by Optuna: which comes next, and what became of the earlier ones.

What a trial tries depends on the search's seed and on the trials that were finished before it, and on nothing else.
So the same search twice has the same trials, also when it was killed in between: a trial that was running then has
no result, and the next process begins it anew with the same values. The only module that imports Optuna.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import content_key
from recbole_soft.errors import SettingError, UserError
from recbole_soft.tuning.space import CHOICE, Parameter, SearchSpace, as_text

STORAGE_FILE = "study.db"
# Trials before a sampler that learns starts to learn, and before a trial can be cut short.
RANDOM_TRIALS, UNPRUNED_TRIALS = 8, 4
DONE, PRUNED, FAILED = "done", "pruned", "failed"


class PrunedError(Exception):
    """A trial that is not worth going on with."""


@dataclass(frozen=True)
class Outcome:
    """A finished trial.

    Attributes:
        number: from 1, in the order of the search.
        parameters: what it tried, as words of a command line.
        state: `done`, `pruned` or `failed`.
        score: validation score, None for a failed trial; for a pruned one that of its last epoch.
        epochs: validations of the stage whose score counts.
        notes: seconds, folder, and what else the search noted.
    """

    number: int
    parameters: Mapping[str, str]
    state: str
    score: float | None
    epochs: int
    notes: Mapping[str, Any]


def require_optuna() -> None:
    """Raises a UserError that says how to get Optuna, if it is not there."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("tune needs Optuna, which is not installed", where="tune",
                        remedy='pip install "recbole_soft[tune]", or in a checkout: pip install -e ".[tune]"')


class Study:
    """A search that is kept in `folder`.

    Args:
        is_larger_better: direction of the validation score.
        identity: hash of all that makes this search this one; a folder that holds another is refused.
    """

    def __init__(self, folder: Path, space: SearchSpace, seed: int, is_larger_better: bool, identity: str):
        require_optuna()
        import optuna
        from sqlalchemy.engine import URL

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed = space, seed
        self.is_larger_better = is_larger_better
        url = URL.create("sqlite", database=str((folder / STORAGE_FILE).absolute()))
        pruner = optuna.pruners.NopPruner() if space.pruner == "none" else optuna.pruners.MedianPruner(
            n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=1)
        self._storage = optuna.storages.RDBStorage(url.render_as_string(hide_password=False))
        self._study = optuna.create_study(
            study_name="search", storage=self._storage, pruner=pruner, load_if_exists=True,
            direction="maximize" if is_larger_better else "minimize")
        if self.fact("identity", identity) != identity:
            raise SettingError("this folder holds a search of something else: other settings, space or seed",
                               where=str(folder), remedy="give another name: --study=NAME")
        self._distributions = {parameter.name: _distribution(parameter) for parameter in space.parameters}
        self._forget_interrupted()

    def _forget_interrupted(self) -> None:
        """Trials that a killed process left running will never end: they count as if they had not begun."""
        import optuna

        for trial in self._study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    # ---- what was done ---------------------------------------------------------------------------
    def outcomes(self) -> list[Outcome]:
        """Finished trials in the order of the search."""
        finished = []
        for trial in self._study.get_trials(deepcopy=False):
            state = {"COMPLETE": DONE, "PRUNED": PRUNED}.get(trial.state.name)
            state = FAILED if state is None and "error" in trial.user_attrs else state
            if state is not None:
                words = {name: as_text(value) for name, value in trial.params.items()}
                finished.append(Outcome(len(finished) + 1, words, state, trial.value, len(trial.intermediate_values),
                                        trial.user_attrs))
        return finished

    def best(self) -> Outcome | None:
        """The best trial that ran to its end, the earliest of equal ones."""
        done = [outcome for outcome in self.outcomes() if outcome.state == DONE]
        sign = 1 if self.is_larger_better else -1
        return max(done, key=lambda outcome: (sign * outcome.score, -outcome.number), default=None)

    def planned(self, wanted: int) -> int:
        """Trials that there can be: as many as wanted, but never more than a grid has."""
        return min(wanted, sum(1 for _ in self._space.grid())) if self._space.sampler == "grid" else wanted

    def fact(self, name: str, value: Any) -> Any:
        """A fact about the whole search: the one that was noted first, which is `value` if there is none."""
        if name not in self._study.user_attrs:
            self._study.set_user_attr(name, value)
        return self._study.user_attrs[name]

    # ---- the next trial --------------------------------------------------------------------------
    @contextmanager
    def next_trial(self) -> Iterator[Trial]:
        """Begins a trial. What ends the block says what becomes of it.

        `PrunedError` has it noted as pruned and goes no further. After any other exception it is as if the trial had
        not begun, unless `Trial.fail` was called.
        """
        import optuna

        index = len(self.outcomes())
        self._study.sampler = self._sampler(index)
        trial = Trial(self._study.ask(self._distributions), index + 1)
        try:
            yield trial
        except PrunedError:
            self._study.tell(trial.inner, state=optuna.trial.TrialState.PRUNED)
        except BaseException:
            self._study.tell(trial.inner, state=optuna.trial.TrialState.FAIL)
            raise
        else:
            failed = trial.score is None
            self._study.tell(trial.inner, trial.score, state=optuna.trial.TrialState.FAIL if failed else None)

    def _sampler(self, index: int) -> Any:
        """The sampler of one trial, seeded by the search's seed and the trial's place."""
        import optuna

        seed = int(content_key(seed=self._seed, trial=index)[:8], 16)
        if self._space.sampler == "grid":
            return _given(next(words for place, words in enumerate(self._space.grid()) if place == index))
        if self._space.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)


class Trial:
    """A trial that is running.

    Attributes:
        number: from 1, in the order of the search.
        parameters: what it tries, as words of a command line.
        score: set at its end; None if it failed.
    """

    def __init__(self, inner: Any, number: int):
        self.inner, self.number = inner, number
        self.parameters = {name: as_text(value) for name, value in inner.params.items()}
        self.score: float | None = None

    def after_epoch(self, epoch: int, score: float) -> None:
        """Notes a validation score.

        Raises:
            PrunedError: earlier trials were better by then.
        """
        self.inner.report(score, epoch)
        if self.inner.should_prune():
            raise PrunedError

    def note(self, **notes: Any) -> None:
        """Keeps figures with the trial."""
        for name, value in notes.items():
            self.inner.set_user_attr(name, value)

    def fail(self, reason: str) -> None:
        """Has the trial count as failed: it is not tried again."""
        self.note(error=reason)


def _given(values: Mapping[str, str]) -> Any:
    """A sampler that draws given values: Optuna's own for grids skips combinations whose trial was killed."""
    from optuna.samplers import BaseSampler

    class Given(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> str:
            return values[param_name]

    return Given()


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.kind == CHOICE:
        return CategoricalDistribution(parameter.values)
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), step=int(parameter.step or 1))
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.kind == "log",
                             step=parameter.step)
