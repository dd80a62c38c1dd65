"""Sorts the rows of many runs into methods: the same method trained with several seeds becomes one row of a table.

Two rows are one method when all settings that can decide their results are equal but for the seed. Settings of other
strategies do not count: the SFT stage of a SOFT run is the same SFT as a run of its own, whatever its `alpha`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_soft.config.layers import chosen_components, known_settings
from recbole_soft.config.schema import NOT_RESULTS
from recbole_soft.errors import UserError
from recbole_soft.registry import SCHEDULES, STRATEGIES, split_name
from recbole_soft.reporting.records import RecordError, RunRecord, RunResult

# Settings that name the run, its place, its machine's share or how it talks, not what comes out of it.
NOT_DECIDING = frozenset({*NOT_RESULTS, "model", "strategy", "seed", "gpu_id", "config_files"})
# Folders of other runs. They usually differ by seed, and are told apart only where nothing else does.
COMPANION_PATHS = ("teacher", "rec_model_file", "injection_model_file", "retriever", "sft_adapter")
# Ranks that differ by rounding alone: by one place or a hundredth of the rank, in few windows.
ROUNDING_STEP, ROUNDING_SHARE = 0.01, 0.1


@dataclass(frozen=True)
class Method:
    """A row of a comparison: one method on one data set.

    Attributes:
        label: such as `BIGRec SOFT alpha=10`.
        results: one per seed, in the order of seeds.
        name: model and strategy, such as `BIGRec_SFT`, also where the row is a stage of another run.
    """

    label: str
    results: tuple[RunResult, ...] = field(repr=False)
    name: str = ""

    @property
    def dataset(self) -> str:
        return self.results[0].run.dataset

    @property
    def seeds(self) -> list[int]:
        return [result.run.seed for result in self.results]

    @property
    def ranks(self) -> np.ndarray:
        """[s, n] ranks by seed and test window."""
        return np.stack([result.ranks for result in self.results])

    @property
    def strategy(self) -> str | None:
        """The strategy that trained a language model; None for other models and for methods that train nothing."""
        result = self.results[0]
        trained = result.run.raw["stages"].get(result.stage, {}).get("folder")
        return strategy_of(result) if trained else None

    @property
    def model(self) -> str:
        """What strategies are compared on: the model and its language model, as text."""
        config = self.results[0].run.config
        tells = {key: value for key, value in _unusual(config).items()
                 if key in ("base_model", "retriever", "quantization") or key.startswith(("llm", "tiny_"))}
        return _text(tells)

    @property
    def training(self) -> str:
        """All settings that the strategies of a model have in common, as text."""
        own = {*NOT_DECIDING, *COMPANION_PATHS, *_of_strategies()}
        return _text({key: value for key, value in _unusual(self.results[0].run.config).items() if key not in own})


def strategy_of(result: RunResult) -> str | None:
    """Strategy whose result a row is: the run's own for its last stage, `SFT` for the stage `sft` before it."""
    own = result.run.config.get("strategy")
    if own is None or result.stage == result.run.raw["results"][-1]["stage"]:
        return own
    return result.stage.upper() if result.stage.upper() in STRATEGIES else result.stage


def name_of(result: RunResult) -> str:
    """Model and strategy of a row, such as `BIGRec_SFT`."""
    strategy = strategy_of(result)
    return f"{result.run.config.get('base_model')}_{strategy}" if strategy else result.run.model


def deciding_settings(config: Mapping[str, Any], strategy: str | None) -> dict[str, Any]:
    """The part of a run's resolved settings that can decide what `strategy` gives (None: no strategy)."""
    foreign = _of_strategies() if strategy is not None else set()  # RecBole's models have settings of these names, too
    if strategy is not None:
        try:
            split_name(f"{config.get('base_model')}_{strategy}")
            own = chosen_components(f"{config['base_model']}_{strategy}", config)
        except UserError:  # a strategy of a plug-in that is not installed here
            own, foreign = [], set()
        foreign -= {setting.name for component in own for setting in component.settings}
    return {key: value for key, value in config.items() if key not in NOT_DECIDING and key not in foreign}


def telling_settings(result: RunResult) -> dict[str, Any]:
    """What tells a row's method from others of its name: settings that decide it and have not their defaults."""
    settings = _unusual(deciding_settings(result.run.config, strategy_of(result)))
    return {key: value for key, value in settings.items() if key not in COMPANION_PATHS}


def group_methods(records: Iterable[RunRecord]) -> list[Method]:
    """Methods in the order in which they first appear, labels made unique by the settings that differ.

    Raises:
        RecordError: two runs of one method and seed have other ranks, so one of them is not what it says.
    """
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in records:
        for result in run.results:
            groups.setdefault((run.dataset, name_of(result), _text(telling_settings(result))), []).append(result)
    methods = [method for group in groups.values() for method in _by_companion(group)]
    return _with_unique_labels(methods)


def _unusual(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have not their default.

    A record of an earlier version lacks the settings that have come since: it ran as if they had their defaults.
    """
    defaults = {name: setting.default for name, setting in known_settings([]).items()}
    return {key: value for key, value in config.items() if not (key in defaults and value == defaults[key])}


def _of_strategies() -> set[str]:
    """Names of the settings of all strategies and schedules."""
    return {setting.name for registry in (STRATEGIES, SCHEDULES) for component in registry.components()
            for setting in component.settings}


def _by_companion(group: Sequence[RunResult]) -> list[Method]:
    """One method, or several where runs of one seed differ and only another run's folder can be the reason."""
    try:
        return [_method(group)]
    except RecordError:
        apart: dict[str, list[RunResult]] = {}
        for result in group:
            apart.setdefault(_text({key: result.run.config.get(key) for key in COMPANION_PATHS}), []).append(result)
        if len(apart) == 1:
            raise
        return [_method(part) for part in apart.values()]


def _method(group: Sequence[RunResult]) -> Method:
    of_seed: dict[int, RunResult] = {}
    for result in group:
        first = of_seed.setdefault(result.run.seed, result)
        if first is not result and not equal_but_for_rounding(first.ranks, result.ranks):
            raise RecordError(
                f"two runs of {result.label} with seed {result.run.seed} and equal settings have different results",
                where=f"{first.run.place} ({_code(first.run)}) and {result.run.place} ({_code(result.run)})",
                remedy="compare one of them, or run the older one again")
    results = tuple(of_seed[seed] for seed in sorted(of_seed))
    return Method(results[0].label, results, name_of(results[0]))


def equal_but_for_rounding(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of ranks are of the same weights, in runs that did different things before the test.

    On GPUs, and in records of before 2026-11-21, the vector of an answer that is no title depends in its last digits on
    the texts that were embedded in one batch with it, so near ties change places: seen in 3 and in 7 of 500 windows.
    """
    if one.shape != other.shape:
        return False
    steps = np.abs(one - other)
    return bool((steps <= np.maximum(1, ROUNDING_STEP * one)).all() and (steps > 0).mean() <= ROUNDING_SHARE)


def _code(run: RunRecord) -> str:
    return f"commit {run.raw.get('commit')}"


def _with_unique_labels(methods: list[Method]) -> list[Method]:
    """Adds to equal labels of one data set the settings in which their methods differ, smaller values first."""
    labelled = []
    for place in dict.fromkeys((method.dataset, method.label) for method in methods):
        rivals = [method for method in methods if (method.dataset, method.label) == place]
        configs = [deciding_settings(rival.results[0].run.config, strategy_of(rival.results[0])) for rival in rivals]
        keys = [key for key in dict.fromkeys(key for config in configs for key in config)
                if len({_text(config.get(key)) for config in configs}) > 1]
        for own, rival in sorted(zip(configs, rivals, strict=True), key=lambda pair: _order(pair[0], keys)):
            told = " ".join(f"{key}={own.get(key)}" for key in keys)
            labelled.append(Method(f"{rival.label} {told}".strip(), rival.results, rival.name))
    return labelled


def _order(config: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[bool, float, str]]:
    """Puts numbers in their order and before texts."""
    values = [config.get(key) for key in keys]
    return [(False, float(value), "") if isinstance(value, int | float) else (True, 0.0, str(value))
            for value in values]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
