"""What a search may try: a YAML file with a sampler and, per setting, a range or a list of values.

    sampler: tpe
    pruner: median
    trials: 20
    parameters:
      alpha:         {type: log, low: 0.1, high: 100, when: {schedule: exponential}}
      lora_r:        {type: choice, values: [4, 8, 16, 32]}

Bounds and values are checked against the settings' own ranges before anything heavy is imported. Knows nothing of
Optuna and runs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_soft.config.yaml_files import YamlFile, load_yaml, properties_root
from recbole_soft.errors import SettingError, nearest

CHOICE = "choice"
TYPES = {"int": (int,), "float": (int, float), "log": (int, float), CHOICE: (object,)}
SAMPLERS, PRUNERS = ("tpe", "random", "grid"), ("median", "none")
DEFAULT_TRIALS = 20
_FILE_KEYS = ("sampler", "pruner", "trials", "parameters")
_PARAMETER_KEYS = ("type", "low", "high", "step", "values", "when")


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched.

    Attributes:
        name: the setting.
        kind: `int`, `float`, `log` (a float whose logarithm is drawn evenly) or `choice`.
        low, high: inclusive bounds; for all kinds but `choice`.
        step: distance of the values of `int` and `float`, if they are not all allowed.
        values: what a `choice` chooses from, as text that a command line could hold.
        when: settings that must have a value (or one of a list) for the parameter to be searched.
        place: file and line, for messages.
    """

    name: str
    kind: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    values: tuple[str, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    place: str = ""

    def extremes(self) -> tuple[str, ...]:
        """The values to check, as text: both bounds, or every choice."""
        return self.values or (as_text(self.low), as_text(self.high))

    def describe(self) -> str:
        """`alpha 0.1 to 100 (log)`."""
        if self.kind == CHOICE:
            return f"{self.name} {', '.join(self.values)}"
        how = ", ".join([*(["log"] if self.kind == "log" else []), *([f"step {self.step}"] if self.step else [])])
        return f"{self.name} {as_text(self.low)} to {as_text(self.high)}" + (f" ({how})" if how else "")


@dataclass(frozen=True)
class SearchSpace:
    """A whole search: how values are drawn, how trials are cut short, how many there are."""

    source: str
    sampler: str
    pruner: str
    trials: int
    parameters: tuple[Parameter, ...]

    def deciding(self) -> dict[str, Any]:
        """What makes two searches the same one. The number of trials does not: a search can be prolonged."""
        own = [{key: value for key, value in asdict(parameter).items() if key not in ("place", "when")}
               for parameter in self.parameters]
        return {"sampler": self.sampler, "pruner": self.pruner, "parameters": own}

    def grid(self) -> Iterator[dict[str, str]]:
        """All combinations, the last parameter changing fastest; for `sampler: grid`."""
        names = [parameter.name for parameter in self.parameters]
        for values in itertools.product(*(parameter.values for parameter in self.parameters)):
            yield dict(zip(names, values, strict=True))


def as_text(value: Any) -> str:
    """A value as a word of a command line that gives exactly this value when it is read."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(as_text(entry) for entry in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_text(entry)}" for key, entry in value.items()) + "}"
    return repr(value) if isinstance(value, float) else str(value)


def space_file(name: str | None, model: str, base: str | None, is_llm: bool) -> Path:
    """Where a search space lies.

    Args:
        name: a file, or the name of one in `properties/search`; None takes the default of the model.
        base: the RecBole model that the model is based on, if any.

    Raises:
        SettingError: there is no such file.
    """
    folder = properties_root() / "search"
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name is None:
        default = "llm" if is_llm else "traditional"
        return next(known[stem] for stem in (model, base, default) if stem in known)
    if Path(name).is_file():
        return Path(name)
    if name in known:
        return known[name]
    raise SettingError(f"there is no search space '{name}'", where=f"--space={name}",
                       remedy=f"give a YAML file, or a name of {folder}; {nearest(name, known)}")


def read_space(path: Path) -> SearchSpace:
    """Reads a search space; that its values are allowed for a model is checked in `fit.py`.

    Raises:
        SettingError: a key, type or bound is wrong; every message names file and parameter.
    """
    file = load_yaml(path)
    _only_known(file.values, _FILE_KEYS, str(path))
    entries = file.values.get("parameters")
    if not isinstance(entries, dict) or not entries:
        raise SettingError("a search space needs parameters", str(path),
                           "for example:\n    parameters:\n      alpha: {type: log, low: 0.1, high: 100}")
    space = SearchSpace(
        str(path), _one_of(file, "sampler", SAMPLERS), _one_of(file, "pruner", PRUNERS),
        file.values.get("trials", DEFAULT_TRIALS),
        tuple(_parameter(name, entry, f"{path}, parameter {name}") for name, entry in entries.items()))
    if not isinstance(space.trials, int) or isinstance(space.trials, bool) or space.trials < 1:
        raise SettingError(f"trials = {space.trials}: must be an integer from 1 up", file.place("trials"))
    for parameter in space.parameters:
        if space.sampler == "grid" and parameter.kind != CHOICE:
            raise SettingError("sampler: grid needs lists of values", parameter.place,
                               f"write {parameter.name}: {{type: choice, values: [...]}}, or sampler: tpe")
    return space


def _one_of(file: YamlFile, key: str, allowed: tuple[str, ...]) -> str:
    value = file.values.get(key, allowed[0])
    if value not in allowed:
        raise SettingError(f"{key} = {value}: must be one of {', '.join(allowed)}", file.place(key))
    return value


def _only_known(entry: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in entry:
        if key not in known:
            raise SettingError(f"'{key}' means nothing in a search space", place, nearest(str(key), known))


def _parameter(name: str, entry: Any, place: str) -> Parameter:
    if not isinstance(entry, dict):
        raise SettingError(f"{name} = {entry}: a parameter is described by a mapping", place,
                           "for example {type: log, low: 0.1, high: 100} or {type: choice, values: [4, 8]}")
    _only_known(entry, _PARAMETER_KEYS, place)
    kind = entry.get("type")
    if kind not in TYPES:
        raise SettingError(f"type = {kind}: must be one of {', '.join(TYPES)}", place)
    when = _conditions(entry.get("when", {}), place)
    if kind == CHOICE:
        return Parameter(name, kind, values=_choices(entry, place), when=when, place=place)
    if surplus := [key for key in ("values", *(["step"] if kind == "log" else [])) if key in entry]:
        raise SettingError(f"'{surplus[0]}' does not go with type {kind}", place, "remove it")
    low, high, step = (entry.get(key) for key in ("low", "high", "step"))
    for key, bound in (("low", low), ("high", high), *([("step", step)] if step is not None else [])):
        if not isinstance(bound, TYPES[kind]) or isinstance(bound, bool):
            raise SettingError(f"{key} = {bound}: type {kind} needs {'an integer' if kind == 'int' else 'a number'}",
                               place)
    if not low < high or (kind == "log" and low <= 0) or (step is not None and not 0 < step <= high - low):
        raise SettingError(f"low = {low}, high = {high}" + (f", step = {step}" if step is not None else "")
                           + ": the range is empty, or reaches what has no logarithm", place,
                           "low must be below high" + (" and above 0" if kind == "log" else ""))
    return Parameter(name, kind, low, high, step, when=when, place=place)


def _choices(entry: Mapping[str, Any], place: str) -> tuple[str, ...]:
    values = entry.get("values")
    if surplus := [key for key in ("low", "high", "step") if key in entry]:
        raise SettingError(f"'{surplus[0]}' does not go with type choice", place, "remove it")
    if not isinstance(values, list) or not values:
        raise SettingError(f"values = {values}: type choice needs a list of values", place, "e.g. values: [4, 8, 16]")
    texts = tuple(map(as_text, values))
    if len(set(texts)) < len(texts):
        raise SettingError(f"values = {', '.join(texts)}: a value comes twice", place, "give each once")
    return texts


def _conditions(when: Any, place: str) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, dict):
        raise SettingError(f"when = {when}: must be a mapping of settings to values", place,
                           "for example when: {schedule: exponential}")
    return {key: tuple(value) if isinstance(value, list) else (value,) for key, value in when.items()}
