"""RecBole's Config without its surprises: it executes nothing, reads no `sys.argv`, and knows our layers.

RecBole passes strings through `eval` and parses the command line of whatever program runs; `SoftConfig`
reads strings by the rules of its YAML files and takes the command line as an argument. Where the layers lie
and what is allowed is decided elsewhere (`layers`, `validate`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from recbole.config import Config

from recbole_soft.config import layers, recbole_keys
from recbole_soft.config.schema import SETTINGS
from recbole_soft.config.sources import user_settings
from recbole_soft.config.validate import RUN_KEYS, validate
from recbole_soft.config.values import parsed
from recbole_soft.errors import SettingError
from recbole_soft.parallel.launch import launch, visible_gpus

logger = logging.getLogger("recbole_soft")
_CHECKED_BY_RECBOLE = ("metrics", "valid_metric", "topk", "eval_args", "loss_type", "train_neg_sample_args",
                       "repeatable")


class SoftConfig(Config):
    """Settings of one run, validated and typed.

    Args:
        model: a name such as `BIGRec_SOFT`, one of our traditional models, or a sequential model of RecBole.
        dataset: name of the data set.
        config_file_list: the user's YAML files, the last one winning.
        config_dict: the user's dictionary, stronger than the files.
        command_line: `{key: text}`, stronger than both.

    Raises:
        SettingError: a file cannot be read or a setting is wrong; every mistake is named.
    """

    uses_soft_layers = True

    def __init__(self, model: str, dataset: str, config_file_list: Sequence[str] | None = None,
                 config_dict: Mapping[str, Any] | None = None, command_line: Mapping[str, str] | None = None):
        layers.install()
        merged, self._sources = user_settings(config_file_list or (), config_dict or {}, command_line or {})
        self._typed_settings = validate(merged, self._sources, model, dataset)
        self._command_line = dict(command_line or {})
        super().__init__(model, dataset, list(config_file_list or ()), dict(config_dict or {}))

    @property
    def unchecked(self) -> list[str]:
        """Settings of the user's that RecBole alone knows, without kind or range."""
        checked = {setting.name for setting in recbole_keys.typed_settings()}
        checked |= set(layers.known_settings(layers.chosen_components(self.model, self.external_config_dict)))
        return [key for key in self.external_config_dict if key not in checked | RUN_KEYS]

    def get(self, key: str, default: Any = None) -> Any:
        """Value of `key`, or `default` where nothing sets it (RecBole's Config has no `get`)."""
        return self.final_config_dict.get(key, default)

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole appends the data set's keys to lists that all Configs of the process share.
        self.parameters = {category: list(names) for category, names in self.parameters.items()}
        self.parameters["LLM"] = [setting.name for setting in SETTINGS]

    def _load_config_files(self, file_list: list[str]) -> dict[str, Any]:
        return {}  # read once, with their line numbers, by user_settings()

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return {key: parsed(value) for key, value in config_dict.items()}

    def _load_cmd_line(self) -> dict[str, str]:
        return dict(self._command_line)

    def _merge_external_config_dict(self) -> None:
        # An explicit `llm: None` asks for the preset that is chosen without it.
        self.external_config_dict = {key: value for key, value in self._typed_settings.items()
                                     if (key, value) != ("llm", None)}

    def _get_final_config_dict(self) -> dict[str, Any]:
        """What a user's `eval_args` leave out is the protocol's. RecBole would fill in its own: a split by users."""
        given, protocol = self.external_config_dict.get("eval_args"), self.internal_config_dict.get("eval_args")
        if isinstance(given, Mapping) and isinstance(protocol, Mapping):
            missing = dict(protocol)
            if "LS" in (given.get("split") or {}):
                missing["group_by"] = "user"  # the last of each user's; there is no other way to leave one out
            self.external_config_dict["eval_args"] = missing | dict(given)
        return super()._get_final_config_dict()

    def _init_device(self) -> None:
        """RecBole's device, on the GPU of this process; the first process alone shows and keeps things.

        Other than in RecBole, `use_gpu: False` counts, and a GPU that is asked for by its number must be there.
        """
        here, settings = launch(), self.final_config_dict
        asked = settings["gpu_id"]
        settings["gpu_id"] = here.gpu(_as_text(asked), visible_gpus())
        if here.rank:
            settings |= dict.fromkeys(("show_progress", "log_wandb", "save_dataset", "save_dataloaders"), False)
        super()._init_device()
        if not settings.get("use_gpu", True):
            settings["device"] = torch.device("cpu")
        elif settings["device"].type == "cpu" and asked:
            if self.external_config_dict.get("gpu_id") is not None:
                raise SettingError(f"gpu_id = {asked}: torch finds no such GPU", self._sources.get("gpu_id"),
                                   "give the number of a GPU that nvidia-smi shows, or --use_gpu=False")
            if self.external_config_dict.get("use_gpu"):
                logger.warning("use_gpu=True, but torch finds no GPU: the run goes on on the CPU")

    def _set_default_parameters(self) -> None:
        with _refusals_as_user_errors(self.external_config_dict):
            super()._set_default_parameters()

    def _set_train_neg_sample_args(self) -> None:
        with _refusals_as_user_errors(self.external_config_dict):
            super()._set_train_neg_sample_args()

    def _set_eval_neg_sample_args(self, phase: str) -> None:
        with _refusals_as_user_errors(self.external_config_dict):
            super()._set_eval_neg_sample_args(phase)


def _as_text(gpu_id: Any) -> str:
    """`gpu_id` as RecBole takes it: a number, several as text or as a tuple."""
    return ",".join(map(str, gpu_id)) if isinstance(gpu_id, (tuple, list)) else str(gpu_id)


@contextmanager
def _refusals_as_user_errors(user: Mapping[str, Any]) -> Iterator[None]:
    """RecBole's own checks raise plain exceptions; what they refuse is a setting all the same."""
    try:
        yield
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
        given = [f"{key}={user[key]}" for key in _CHECKED_BY_RECBOLE if key in user]
        raise SettingError(f"RecBole refuses the settings: {error}", where=", ".join(given) or "settings",
                           remedy="see https://recbole.io/docs/user_guide/config_settings.html") from error
