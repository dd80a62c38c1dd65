"""One line of a recipe's `models`: a model with its settings, or one for every combination of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from recbole_soft.config.yaml_files import YamlFile
from recbole_soft.errors import SettingError, nearest
from recbole_soft.registry import model_family

ENTRY_KEYS = ("model", "label", "settings", "grid", "choose", "seeds", "datasets", "needs", "export")
EXPORT_KEYS = ("sample", "topk")
TEACHER = "teacher"


@dataclass(frozen=True)
class Entry:
    """One line of `models`: a model with its settings, or one per combination of its grid.

    Attributes:
        model: such as `BIGRec_SOFT`.
        settings: on top of the recipe's.
        variants: the grid's combinations; one empty one without a grid.
        choose: whether only the variant with the best validation score is trained with all seeds and shown.
        needs: setting -> model of the entry whose run (same data set and seed) it names.
        export: options of `export-teacher`, where `teacher` is needed.
    """

    model: str
    label: str | None
    settings: Mapping[str, Any]
    variants: tuple[Mapping[str, Any], ...]
    choose: bool
    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    needs: Mapping[str, str]
    export: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.label or self.model


def read_entry(item: Any, file: YamlFile, datasets: Mapping[str, Any], seeds: tuple[int, ...]) -> Entry:
    """Checks one entry of `models` and fills in what it leaves to the recipe: data sets and seeds.

    Raises:
        SettingError: names the entry and what is wrong with it.
    """
    item, place = ({"model": item} if isinstance(item, str) else item), file.place("models")
    if not isinstance(item, dict) or not isinstance(item.get("model"), str):
        raise SettingError(f"{item!r} is no entry of `models`", place, "write a name, or - model: NAME and its keys")
    where = f"{place}, {item['model']}"
    for key in item:
        if key not in ENTRY_KEYS:
            raise SettingError(f"{key}: there is no such key of a model in a recipe", where, nearest(key, ENTRY_KEYS))
    try:
        model_family(item["model"])
    except SettingError as error:
        raise SettingError(error.what, where, error.remedy) from error
    for key in ("settings", "grid", "needs", "export"):
        if not isinstance(item.get(key) or {}, dict):
            raise SettingError(f"{key} must hold `name: value` lines", where, f"for example {key}: {{alpha: 10}}")
    grid = _grid(item, where)
    if item.get("choose") not in (None, "validation") or (item.get("choose") and not grid):
        raise SettingError(f"choose = {item['choose']}: the only choice is `validation`, and it needs a grid", where,
                           "add a grid, or remove choose")
    for key, value in (item.get("export") or {}).items():
        if key not in EXPORT_KEYS or TEACHER not in (item.get("needs") or {}):
            raise SettingError(f"export: {key} is no option of a needed teacher", where, nearest(key, EXPORT_KEYS))
        if type(value) is not int or value < 1:
            raise SettingError(f"export: {key} = {value} is no number from 1", where, f"for example {key}: 10")
    if not isinstance(item.get("label", ""), str):
        raise SettingError(f"label: {item['label']} is no text", where, f'write label: "{item["label"]}"')
    of_entry = as_list(item.get("datasets") or list(datasets))
    if unknown := [name for name in of_entry if name not in datasets]:
        raise SettingError(f"datasets: the recipe has no {unknown[0]}", where, nearest(unknown[0], datasets))
    variants = tuple(dict(zip(grid, values, strict=True)) for values in product(*grid.values()))
    return Entry(item["model"], item.get("label"), item.get("settings") or {}, variants, bool(item.get("choose")),
                 tuple(read_seeds(item["seeds"], where)) if "seeds" in item else seeds,
                 tuple(of_entry), item.get("needs") or {}, item.get("export") or {})


def _grid(item: Mapping[str, Any], where: str) -> Mapping[str, list[Any]]:
    grid = item.get("grid") or {}
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise SettingError(f"grid: {key} needs a list of values", where, f"for example {key}: [1, 5, 10]")
        if twice := [value for number, value in enumerate(values) if value in values[:number]]:
            raise SettingError(f"grid: {key} has {twice[0]} twice", where, "give each value once")
    return grid


def read_seeds(raw: Any, where: str) -> list[int]:
    """Seeds of a recipe: different integers from 0; raises SettingError for anything else."""
    seeds = raw if isinstance(raw, list) else [raw]
    if not seeds or any(not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 for seed in seeds) \
            or len(set(seeds)) < len(seeds):
        raise SettingError(f"seeds = {raw}: must be different integers from 0", where, "for example seeds: [42, 43]")
    return seeds


def as_list(raw: Any) -> list[str]:
    """A list of texts, or a single one, as a list."""
    return [str(item) for item in (raw if isinstance(raw, list) else [raw])]
