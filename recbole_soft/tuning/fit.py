"""Fits a search space to a run: which parameters are searched there, and whether all their values are allowed.

Refused are settings that decide what is measured (the protocol, seeds, metrics): trials that differ in them cannot be
compared, and the best of them would be a lucky draw. Knows nothing of Optuna and imports neither RecBole nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recbole_soft.config import layers, recbole_keys
from recbole_soft.config.schema import PROTOCOL, RUN, SETTINGS
from recbole_soft.config.validate import validate
from recbole_soft.errors import SettingError, nearest
from recbole_soft.registry import MODELS, SCHEDULES, STRATEGIES
from recbole_soft.tuning.space import Parameter, SearchSpace

_MEASURING = frozenset({
    "seed", "metrics", "topk", "valid_metric", "eval_args", "user_inter_num_interval", "item_inter_num_interval",
    "MAX_ITEM_LIST_LENGTH", "model", "dataset", "data_path", "load_col", "checkpoint_dir", "state", "show_progress",
    "use_gpu", "gpu_id", "reproducibility", "eval_batch_size", "worker", "log_wandb", "repeatable",
    *(setting.name for setting in (*PROTOCOL, *RUN) if setting.name != "train_sample"),
})
# What `layer_values` adds to the settings of a run, and conditions may ask for.
_PARTS = ("model", "base_model", "strategy", "llm")


def fit_space(space: SearchSpace, model: str, dataset: str, user: Mapping[str, Any],
              sources: Mapping[str, str]) -> tuple[SearchSpace, dict[str, str]]:
    """The space with the parameters that are searched in this run, and the others with the reason.

    Args:
        user: the user's settings, already checked. A setting that is given is not searched.
        sources: where each was set.

    Raises:
        SettingError: a parameter is no setting of this run, has values that are not allowed, or may not be searched.
    """
    values = recbole_keys.recbole_defaults(model) | layers.layer_values(model, dataset, user) | dict(user)
    values["model"] = model
    searched, left_out = [], {}
    for parameter in space.parameters:
        if parameter.name in _MEASURING:
            raise SettingError(f"{parameter.name} may not be searched: it decides what is measured, and trials could "
                               "not be compared", parameter.place, "remove it; set it for the whole search")
        unmet = _unmet_condition(parameter, values)
        if parameter.name in user:
            left_out[parameter.name] = "given"
        elif unmet:
            left_out[parameter.name] = f"only with {unmet}"
        else:
            searched.append(parameter)
    for parameter in searched:
        _check_values(parameter, model, dataset, user, sources)
    if not searched:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in left_out.items())
        raise SettingError(f"there is nothing to search: {reasons}", space.source,
                           "leave settings open, or give another space: --space=FILE")
    _check_injection(searched, values)
    return replace(space, parameters=tuple(searched)), left_out


def _unmet_condition(parameter: Parameter, values: Mapping[str, Any]) -> str | None:
    for key, wanted in parameter.when.items():
        if key not in _condition_names():
            raise SettingError(f"when: {key}: there is no such setting", parameter.place,
                               nearest(key, _condition_names()))
        if values.get(key) not in wanted:
            return f"{key}: {' or '.join(map(str, wanted))}"
    return None


def _condition_names() -> set[str]:
    own = [setting for registry in (MODELS, STRATEGIES, SCHEDULES) for component in registry.components()
           for setting in component.settings]
    return {setting.name for setting in (*SETTINGS, *own, *recbole_keys.typed_settings())} | set(_PARTS)


def _check_values(parameter: Parameter, model: str, dataset: str, user: Mapping[str, Any],
                  sources: Mapping[str, str]) -> None:
    """Every bound and choice must be a value that the setting takes in this run, as if the user had given it."""
    for text in parameter.extremes():
        validate({**user, parameter.name: text}, {**sources, parameter.name: parameter.place}, model, dataset)


def _check_injection(searched: list[Parameter], values: Mapping[str, Any]) -> None:
    for parameter in searched:
        if parameter.name == "injection_gamma" and values.get("injection") == "none":
            raise SettingError("injection_gamma has no effect with injection = none", parameter.place,
                               "add --injection=popularity, or the condition when: {injection: [popularity, cf]}")
