"""Checks of everything the user set, before RecBole or torch is imported, all mistakes in one message.

Three questions in turn: does the key exist for this model, is the value allowed, do the values go together
(`checks.py`). Property files of a new data set are checked like the user's own files. Whether the data set
itself exists is asked by the data layer, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_soft.config import layers, recbole_keys
from recbole_soft.config.checks import cross_checks
from recbole_soft.config.foreign import check_dataset_name
from recbole_soft.config.schema import SETTINGS, Setting
from recbole_soft.config.values import convert, parsed, shown
from recbole_soft.errors import SettingError, nearest
from recbole_soft.parallel.launch import COMMAND
from recbole_soft.registry import (
    LLM_FAMILY,
    MODELS,
    SCHEDULES,
    STRATEGIES,
    TRADITIONAL_FAMILY,
    Component,
    Registry,
    model_family,
)

# Names of the run itself; every route to a Config may carry them.
RUN_KEYS = frozenset({"model", "dataset", "config_files"})


@dataclass(frozen=True)
class KnownKeys:
    """What may be set in one run.

    Attributes:
        typed: settings with kind and range, by name: ours, then RecBole's common ones.
        untyped: RecBole's further keys for this model.
    """

    typed: dict[str, Setting]
    untyped: frozenset[str]

    def __contains__(self, key: object) -> bool:
        return key in self.typed or key in self.untyped or key in RUN_KEYS

    def names(self) -> list[str]:
        return [*self.typed, *self.untyped, *RUN_KEYS]


def validate(user_settings: Mapping[str, Any], sources: Mapping[str, str], model: str,
             dataset: str) -> dict[str, Any]:
    """Check the user's settings for a run.

    Args:
        user_settings: files, dictionary and command line merged, the strongest winning; text is fine.
        sources: where each key was set, for messages: a file and line, or the command line.
        model: name of the model.
        dataset: name of the data set.

    Returns:
        `user_settings` with every value as its Python type.

    Raises:
        SettingError: names every mistake, each with key, value, what is allowed and where it was set.
    """
    check_dataset_name(dataset)
    family = model_family(model)
    files = layers.property_files(model, dataset, user_settings)
    components = layers.chosen_components(model, user_settings, files)
    known = _known_keys(model, family, components)
    mistakes: list[SettingError] = []
    for file in files:
        for key, value in file.values.items():
            # A data set's file may hold a setting of any strategy; it takes effect when that one runs.
            if key not in known and not _owners(key) and not recbole_keys.models_with(key):
                mistakes.append(_unknown_key(key, value, file.place(key), known, model))
            elif key in known.typed:
                _checked(known.typed[key], value, file.place(key), mistakes)
    typed = {}
    for key, value in user_settings.items():
        where = sources.get(key, "config_dict")
        if key in known.typed:
            typed[key] = _checked(known.typed[key], value, where, mistakes)
        elif key in known:
            typed[key] = parsed(value)
        else:
            mistakes.append(_unknown_key(key, value, where, known, model))
    if not mistakes:
        values = recbole_keys.recbole_defaults(model) | layers.layer_values(model, dataset, typed) | typed
        mistakes = cross_checks(values, typed, sources, family)
    if mistakes:
        raise _together(mistakes)
    return typed


def _known_keys(model: str, family: str, components: list[Component]) -> KnownKeys:
    typed = {setting.name: setting for setting in recbole_keys.typed_settings()}
    typed.update(layers.known_settings(components))
    untyped = recbole_keys.general_keys()
    if family == TRADITIONAL_FAMILY:
        base = MODELS[model].based_on
        untyped |= recbole_keys.model_keys(base) if base else recbole_keys.source_keys(MODELS[model].path)
    elif family != LLM_FAMILY:
        untyped |= recbole_keys.model_keys(model)
    else:
        # RecBole's evaluator and loaders read keys of single models (`alpha`, `beta`); none is one of ours.
        untyped -= {key for key in untyped if _owners(key)}
    return KnownKeys(typed, untyped - set(typed))


def _checked(setting: Setting, value: Any, where: str, mistakes: list[SettingError]) -> Any:
    try:
        return convert(setting, value)
    except ValueError as error:
        remedy = nearest(str(value), setting.choices) if setting.choices else (
            f"give such a value, or leave {setting.name} out")
        mistakes.append(SettingError(f"{setting.name} = {shown(value)}: {error}", where, remedy))
        return value


def _owners(key: str) -> dict[str, list[str]]:
    """Components that declare `key`: kind -> names."""
    registries: tuple[Registry, ...] = (MODELS, STRATEGIES, SCHEDULES)
    owners = {registry.kind: [component.name for component in registry.components()
                              if any(setting.name == key for setting in component.settings)]
              for registry in registries}
    return {kind: names for kind, names in owners.items() if names}


def _unknown_key(key: str, value: Any, where: str, known: KnownKeys, model: str) -> SettingError:
    what = f"{key} = {shown(value)}: "
    if key in recbole_keys.MULTI_PROCESS_KEYS:
        return SettingError(f"{what}RecBole starts several processes by this; here a launcher does", where,
                            f"{COMMAND.format(2)} ... (docs/parallel.md)")
    if key in recbole_keys.DERIVED_KEYS:
        return SettingError(f"{what}this is worked out from other settings", where, "remove it")
    owners = _owners(key)
    if owners:
        whose = " and ".join(f"{kind} {', '.join(names)}" for kind, names in owners.items())
        scheduled = _owners("schedule").get("strategy", []) if "schedule" in owners else []
        having = f" (strategy {', '.join(scheduled)})" if scheduled else ""
        return SettingError(f"{what}a setting of {whose}{having}, which this run of {model} does not use",
                            where, f"remove it, or choose {whose}{having}")
    others = recbole_keys.models_with(key)
    if others:
        return SettingError(f"{what}a setting of RecBole's {', '.join(others)}, not of {model}", where,
                            _suggestion(key, [setting.name for setting in SETTINGS]) or "remove it")
    return SettingError(f"{what}there is no such setting", where,
                        _suggestion(key, known.names()) or "python run_recbole_soft.py --help lists them all")


def _suggestion(key: str, names: list[str]) -> str | None:
    """`did you mean ...?`, or None when no name is close (the list of all would fill the screen)."""
    remedy = nearest(key, names)
    return remedy if remedy.startswith("did you mean") else None


def _together(mistakes: list[SettingError]) -> SettingError:
    if len(mistakes) == 1:
        return mistakes[0]
    numbered = [f"{number}. {mistake.message()}".replace("\n", "\n   ")
                for number, mistake in enumerate(mistakes, 1)]
    return SettingError(f"{len(mistakes)} mistakes in the settings:\n" + "\n".join(numbered))
