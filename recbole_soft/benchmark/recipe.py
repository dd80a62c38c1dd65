"""Recipes: which models, data sets, seeds and settings a benchmark consists of. Reads and checks, runs nothing.

The form of a recipe is described in docs/comparing.md. Every cell's settings are checked by the same rules as a
command's (`config/validate.py`), all of them before the first one runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from recbole_soft.benchmark.entries import Entry, as_list, read_entry, read_seeds
from recbole_soft.config.layers import layer_values
from recbole_soft.config.recbole_keys import recbole_defaults
from recbole_soft.config.validate import validate
from recbole_soft.config.yaml_files import YamlFile, load_yaml, properties_root
from recbole_soft.errors import SettingError, nearest
from recbole_soft.registry import LLM_FAMILY, model_family
from recbole_soft.reporting.comparable import MAY_DIFFER, PROTOCOL_SETTINGS
from recbole_soft.reporting.comparison import SHOWN
from recbole_soft.statistics.metrics import is_metric

KEYS = ("about", "models", "datasets", "seeds", "settings", "settings_llm", "settings_traditional", "baseline",
        "metrics", "output")
DEFAULT_SEED = 42
# Settings of a command that a recipe says otherwise: given as settings they would be one run's for all cells.
NOT_SETTINGS = {
    "model": "write models: [BIGRec_SFT]", "dataset": "write datasets: [ml-100k]", "seed": "write seeds: [42, 43, 44]",
    "resume": "leave it out: what was interrupted goes on",
    "run_name": "leave it out: every cell has a folder of its own",
    "config_files": "write what is in the file as settings of the recipe"}


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        settings_of: per family (`llm` or anything else), settings of all its cells.
        datasets: settings by data set.
    """

    name: str
    about: str
    entries: tuple[Entry, ...]
    datasets: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    settings_llm: Mapping[str, Any]
    settings_traditional: Mapping[str, Any]
    overrides: Mapping[str, Any]
    baseline: str | None
    metrics: tuple[str, ...]
    output: Path
    place: str = field(repr=False)

    def cell_settings(self, entry: Entry, dataset: str, variant: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a cell, weakest first: recipe, family, data set, entry, variant, command line."""
        is_llm = model_family(entry.model) == LLM_FAMILY
        return {**self.settings, **(self.settings_llm if is_llm else self.settings_traditional),
                **self.datasets[dataset], **entry.settings, **variant, **self.overrides}


def find_recipe(text: str) -> Path:
    """The file of a recipe: a path, or the name of one that is shipped in properties/recipe."""
    shipped = properties_root() / "recipe"
    places = [Path(text), shipped / Path(text).name, shipped / f"{text}.yaml"]
    if found := next((place for place in places if place.is_file()), None):
        return found
    raise SettingError("recipe not found", str(Path(text).absolute()),
                       nearest(Path(text).stem, [path.stem for path in shipped.glob("*.yaml")]))


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None, only: Sequence[str] = (),
                seeds: Sequence[int] = (), datasets: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and checks all of it, every cell's settings included.

    Args:
        path: the YAML file.
        overrides: settings of the command, stronger than all of the recipe's.
        only, seeds, datasets: leave out all other models, seeds and data sets.

    Raises:
        SettingError: names the key, the place and the nearest known name.
    """
    file = load_yaml(path)
    for key in file.values:
        if key not in KEYS:
            raise SettingError(f"{key}: there is no such key of a recipe", file.place(key), nearest(key, KEYS))
    all_datasets = _datasets(file)
    of_datasets = {name: all_datasets[name] for name in _chosen(datasets, all_datasets, "datasets")}
    if seeds:
        read_seeds(list(seeds), "--seeds")
    common_seeds = tuple(read_seeds(file.values.get("seeds", [DEFAULT_SEED]), file.place("seeds")))
    raw = file.values.get("models")
    if not isinstance(raw, list) or not raw:
        raise SettingError("a recipe needs `models`, a list", file.place("models"), "for example models: [BIGRec_SFT]")
    entries = [read_entry(item, file, all_datasets, common_seeds) for item in raw]
    entries = [replace(entry, datasets=tuple(name for name in entry.datasets if name in of_datasets))
               for entry in entries]
    baseline = _baseline(file, entries)
    chosen = _chosen(only, dict.fromkeys(entry.model for entry in entries), "only")
    chosen += [need for entry in entries if entry.model in chosen for need in entry.needs.values()]
    entries = [_with_seeds(entry, seeds) for entry in entries if entry.model in chosen and entry.datasets]
    of_datasets = {name: value for name, value in of_datasets.items()
                   if any(name in entry.datasets for entry in entries)}
    if not entries:
        raise SettingError("there is nothing to run: no model of this choice has a data set of this choice",
                           "--only, --datasets", "leave one of them out")
    recipe = Recipe(
        path.stem, str(file.values.get("about", "")).strip(), tuple(entries), of_datasets,
        tuple(seeds) or common_seeds, _mapping(file, "settings"), _mapping(file, "settings_llm"),
        _mapping(file, "settings_traditional"), dict(overrides or {}),
        baseline, _metrics(file),
        Path(str(file.values.get("output") or f"results/{path.stem}")), str(path))
    _check_needs(recipe.entries, file)
    _check_cells(recipe)
    return recipe


def _check_needs(entries: Sequence[Entry], file: YamlFile) -> None:
    rows = [entry.title.replace("_", " ").lower() for entry in entries]  # BIGRec_SFT's row is called BIGRec SFT
    if twice := next((entry.title for entry, row in zip(entries, rows, strict=True) if rows.count(row) > 1), None):
        raise SettingError(f"two entries are called {twice}", file.place("models"), "give one of them a `label`")
    for entry in entries:
        for setting, model in entry.needs.items():
            where = f"{file.place('models')}, {entry.model}, needs"
            providers = [other for other in entries if other.model == model]
            if not providers:
                raise SettingError(f"{setting}: {model} is no model of this recipe", where,
                                   nearest(model, [other.model for other in entries]))
            if len(providers) > 1 or len(providers[0].variants) > 1 or providers[0].needs:
                raise SettingError(f"{setting}: {model} stands for several runs, or needs another run itself", where,
                                   "name a model that has one entry without a grid and without needs")
            missing = set(entry.seeds) - set(providers[0].seeds)
            if missing or set(entry.datasets) - set(providers[0].datasets):
                raise SettingError(f"{setting}: {model} is not run with every seed and data set of {entry.model}",
                                   where, "give both the same seeds and data sets")


def _check_cells(recipe: Recipe) -> None:
    """Every cell's settings by the rules of the command; a folder that is still to be made counts as there.

    Cells of one data set also need one protocol: their rows are to stand in one table.
    """
    protocols: dict[str, tuple[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "teacher.json").touch()
        for entry in recipe.entries:
            for dataset, variant in product(entry.datasets, entry.variants):
                settings = recipe.cell_settings(entry, dataset, variant) | dict.fromkeys(entry.needs, folder)
                place = f"{recipe.place}, {entry.model} on {dataset}"
                if wrong := next((key for key in settings if key in NOT_SETTINGS), None):
                    raise SettingError(f"{wrong} is no setting of a recipe", place, NOT_SETTINGS[wrong])
                try:
                    typed = validate(settings | {"seed": entry.seeds[0]}, dict.fromkeys(settings, place), entry.model,
                                     dataset)
                except SettingError as error:
                    raise SettingError(error.what, error.where or place, error.remedy) from error
                protocol = _protocol(entry.model, dataset, typed)
                other, first = protocols.setdefault(dataset, (entry.title, protocol))
                if differing := [name for name in protocol if first[name] != protocol[name]]:
                    name = differing[0]
                    raise SettingError(f"{entry.title} has {name} = {protocol[name]}, {other} has {name} = "
                                       f"{first[name]}: they could not stand in one table", place,
                                       "set it for all (settings), or write two recipes")


def _protocol(model: str, dataset: str, typed: Mapping[str, Any]) -> dict[str, Any]:
    """What decides data, windows and candidates of a cell."""
    values = {**recbole_defaults(model), **layer_values(model, dataset, typed), **typed}
    return {name: values.get(name) for name in PROTOCOL_SETTINGS if name not in MAY_DIFFER}


def _with_seeds(entry: Entry, seeds: Sequence[int]) -> Entry:
    return replace(entry, seeds=tuple(seeds)) if seeds else entry


def _datasets(file: YamlFile) -> dict[str, dict[str, Any]]:
    raw = file.values.get("datasets")
    if isinstance(raw, dict) and raw and all(isinstance(value, dict) or value is None for value in raw.values()):
        return {str(name): value or {} for name, value in raw.items()}
    if isinstance(raw, (str, list)) and raw:
        return {str(name): {} for name in as_list(raw)}
    raise SettingError("a recipe needs `datasets`", file.place("datasets"), "for example datasets: [ml-100k]")


def _mapping(file: YamlFile, key: str) -> dict[str, Any]:
    value = file.values.get(key) or {}
    if not isinstance(value, dict):
        raise SettingError(f"{key} must hold `name: value` lines", file.place(key), f"for example {key}: {{epochs: 3}}")
    return value


def _metrics(file: YamlFile) -> tuple[str, ...]:
    metrics = tuple(as_list(file.values.get("metrics") or list(SHOWN)))
    for name in metrics:
        if not is_metric(name):
            raise SettingError(f"{name} is no metric", file.place("metrics"), "for example HR@5 or NDCG@20")
    return metrics


def _baseline(file: YamlFile, entries: Sequence[Entry]) -> str | None:
    wanted = file.values.get("baseline")
    titles = [entry.title for entry in entries]
    if wanted is None:
        return None
    meant = [entry for entry in entries if entry.title == wanted] or [e for e in entries if e.model == wanted]
    if not meant:
        raise SettingError(f"baseline = {wanted}: no model of this recipe is called so", file.place("baseline"),
                           nearest(str(wanted), titles))
    if len(meant) > 1 or (len(meant[0].variants) > 1 and not meant[0].choose):
        raise SettingError(f"baseline = {wanted}: several rows are called so", file.place("baseline"),
                           "name the label of an entry without a grid, or with `choose: validation`")
    return wanted


def _chosen(wanted: Sequence[str], known: Iterable[str], option: str) -> list[str]:
    known = list(known)
    for name in wanted:
        if name not in known:
            raise SettingError(f"{name}: the recipe has no such entry", f"--{option}", nearest(name, known))
    return list(wanted) or known
