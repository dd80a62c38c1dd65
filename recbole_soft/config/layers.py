"""Which values apply, in which order: our layers between RecBole's and the user's.

    RecBole's own layers
    -> defaults of `schema.py` and of the chosen model, strategy and schedule
    -> properties/overall.yaml -> properties/dataset/NAME.yaml
    -> LLM methods:   properties/model/MODEL.yaml -> .../strategy/STRATEGY.yaml -> .../llm/LLM.yaml
       other models:  properties/traditional.yaml -> .../model/BASE.yaml -> .../model/NAME.yaml
                      (BASE: the RecBole model that one of ours is based on, whose RecBole defaults come first)
    -> properties/protocol/PRESET.yaml, unless the preset is `paper`, which is what the defaults are
    -> the user's files -> config_dict -> command line

Every file is optional. The user's layers stay with RecBole's Config; this module does not know them beyond
the merged values it is given. RecBole and torch are imported by `install()` and what it installs, not before.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recbole_soft.config.schema import SETTINGS, Setting
from recbole_soft.config.values import convert, shown
from recbole_soft.config.yaml_files import YamlFile, load_yaml, properties_root
from recbole_soft.errors import SettingError
from recbole_soft.registry import (
    MODELS,
    SCHEDULES,
    Component,
    is_llm_name,
    split_name,
    traditional_names,
)

PAPER_PROTOCOL = "paper"
LLM_WITHOUT_PATH = "tiny"
LLM_WITH_PATH = "default"
_MARK = "_knows_recbole_soft"
_FILE_NAME = re.compile(r"[\w][\w.+-]*\Z")


def is_ours(model: str) -> bool:
    """Whether a model name is answered by this package rather than by RecBole."""
    return is_llm_name(model) or model in traditional_names()


def chosen_llm(*layers: Mapping[str, Any]) -> str:
    """Preset of properties/llm, from the strongest of `layers` (weakest first) that names a language model.

    In a layer, `llm` is the preset itself; `llm_path` alone means `default`. Nothing anywhere: the embedded `tiny`.
    """
    for layer in reversed(layers):
        if layer.get("llm") is not None:
            return str(layer["llm"])
        if layer.get("llm_path") is not None:
            return LLM_WITH_PATH
    return LLM_WITHOUT_PATH


def chosen_components(model: str, user: Mapping[str, Any], files: Sequence[YamlFile] = ()) -> list[Component]:
    """The model, its strategy and the strategy's schedule, whose settings exist in this run.

    Args:
        model: a model name.
        user: merged values of the user.
        files: our property files that apply, if they are already read; they may choose the schedule.
    """
    if not is_llm_name(model):
        return [MODELS[model]] if model in MODELS else []
    components = list(split_name(model))
    for setting in components[1].settings:
        if setting.name == "schedule":
            layers = [{"schedule": setting.default}] + [file.values for file in files] + [dict(user)]
            schedule = [layer["schedule"] for layer in layers if "schedule" in layer][-1]
            components += [SCHEDULES[schedule]] if schedule in SCHEDULES else []
    return components


def known_settings(components: list[Component]) -> dict[str, Setting]:
    """All settings of ours that exist in a run, by name."""
    own = [setting for component in components for setting in component.settings]
    return {setting.name: setting for setting in (*SETTINGS, *own)}


def property_files(model: str, dataset: str, user: Mapping[str, Any]) -> list[YamlFile]:
    """Our property files that apply to a run and exist, weakest first.

    Raises:
        SettingError: a file is broken.
    """
    names = ["overall", f"dataset/{dataset}"]
    if is_llm_name(model):
        base, strategy = split_name(model)
        names += [f"model/{base.name}", f"strategy/{strategy.name}"]
        names.append(f"llm/{chosen_llm(*(file.values for file in _existing(names)), user)}")
    else:
        base = MODELS[model].based_on if model in MODELS else None
        names += ["traditional", *([f"model/{base}"] if base else []), f"model/{model}"]
    files = _existing(names)
    protocols = [layer.get("protocol") for layer in (*(file.values for file in files), user)]
    protocol = next((name for name in reversed(protocols) if name is not None), PAPER_PROTOCOL)
    return files if protocol == PAPER_PROTOCOL else files + _existing([f"protocol/{protocol}"])


def layer_values(model: str, dataset: str, user: Mapping[str, Any]) -> dict[str, Any]:
    """Our defaults and property files merged, our settings as their Python types, and the names of the parts.

    Raises:
        SettingError: a property file is broken or holds a value that is not allowed.
    """
    files = property_files(model, dataset, user)
    settings = known_settings(chosen_components(model, user, files))
    values = {setting.name: convert(setting, setting.default) for setting in settings.values()}
    for file in files:
        for key, value in file.values.items():
            values[key] = _converted(settings.get(key), value, file, key)
    if is_llm_name(model):
        base, strategy = split_name(model)
        llm = chosen_llm(*(file.values for file in files), user)
        values.update(base_model=base.name, strategy=strategy.name, llm=llm)
    return values


def _existing(names: list[str]) -> list[YamlFile]:
    root = properties_root()
    # A data set or preset name comes from the user: one that is not a plain file name has no property file.
    safe = [name for name in names if _FILE_NAME.match(name.split("/", 1)[-1])]
    paths = [root / f"{name}.yaml" for name in safe]
    return [load_yaml(path) for path in paths if path.is_file()]


def _converted(setting: Setting | None, value: Any, file: YamlFile, key: str) -> Any:
    if setting is None:
        return value
    try:
        return convert(setting, value)
    except ValueError as error:
        raise SettingError(f"{key} = {shown(value)}: {error}", file.place(key)) from error


def install() -> None:
    """Teach RecBole's Config and get_model our names; calling it again does nothing.

    Afterwards `recbole.config.Config(model="BIGRec_SOFT", dataset="game")` works. A RecBole model under a
    plain RecBole Config is untouched.
    """
    configurator = importlib.import_module("recbole.config.configurator")
    original = configurator.Config._load_internal_config_dict
    if not hasattr(original, _MARK):
        configurator.Config._load_internal_config_dict = _with_our_layers(original)
    get_model = importlib.import_module("recbole.utils.utils").get_model
    if not hasattr(get_model, _MARK):
        get_model = _with_our_models(get_model)
    for module in ("recbole.utils.utils", "recbole.utils", "recbole.config.configurator",
                   "recbole.quick_start.quick_start"):
        # quick_start imports ray; if nobody has imported it yet, it will find the wrapped name by itself.
        if module in sys.modules:
            sys.modules[module].get_model = get_model


def _with_our_models(original: Callable[[str], type]) -> Callable[[str], type]:
    @functools.wraps(original)
    def get_model(model_name: str) -> type:
        if is_llm_name(model_name):
            return split_name(model_name)[0].load()
        return MODELS[model_name].load() if model_name in traditional_names() else original(model_name)

    setattr(get_model, _MARK, True)
    return get_model


def _with_our_layers(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def load_internal_config_dict(config: Any, model: str, model_class: type, dataset: str) -> None:
        original(config, model, model_class, dataset)
        if getattr(type(config), "uses_soft_layers", False) or is_ours(model):
            _apply(config, model, dataset)

    setattr(load_internal_config_dict, _MARK, True)
    return load_internal_config_dict


def _apply(config: Any, model: str, dataset: str) -> None:
    """Put our layers on top of RecBole's internal ones."""
    from recbole.utils import ModelType

    from recbole_soft.config.recbole_keys import base_defaults, sequential_defaults

    internal, user = config.internal_config_dict, config.external_config_dict
    is_sequential = internal["MODEL_TYPE"] == ModelType.SEQUENTIAL
    negatives = internal.get("train_neg_sample_args")
    if not is_sequential:
        # Pop and the like get the windows and the split that every sequential model gets.
        internal.update(sequential_defaults())
    internal.update(base_defaults(model))
    internal.update(layer_values(model, dataset, user))
    internal["MODEL_TYPE"] = ModelType.SEQUENTIAL
    if is_llm_name(model):
        internal.setdefault("loss_type", "CE")
    loss_type = user.get("loss_type", internal.get("loss_type"))
    if (loss_type == "CE" or not is_sequential) and "train_neg_sample_args" not in user:
        internal["train_neg_sample_args"] = None
    elif loss_type == "BPR" and is_sequential:
        internal["train_neg_sample_args"] = negatives  # RecBole's own: our files have none for the others' sake
