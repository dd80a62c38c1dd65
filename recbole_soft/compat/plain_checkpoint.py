"""Reads a RecBole checkpoint without running anything that is in it.

A pickle names functions and classes, and says what to call them with. Here only names that build tensors, arrays and
plain containers are looked up; RecBole's Config becomes a bare record of its values, and any other name (the class of
the model, YAML's loader) an inert stand-in that does nothing when it is called. `torch.load` with `weights_only=True`
would be the library's way, but it cannot read the pickle protocol that RecBole writes.
"""

from __future__ import annotations

import importlib
import os
import pickle
import zipfile
from contextlib import nullcontext
from enum import Enum
from types import ModuleType
from typing import Any

from recbole_soft.errors import ModelError

TRUST_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch's own
_CONFIGS = (("recbole.config.configurator", "Config"), ("recbole_soft.config.soft_config", "SoftConfig"))
_CONTAINERS = {
    "collections": {"OrderedDict", "defaultdict", "Counter"},
    "builtins": {"set", "frozenset", "complex", "slice", "bytearray", "list", "dict", "tuple", "int", "float"},
}
_TENSORS = {
    "torch": {"Size", "device", "Tensor", "dtype", "float32", "float64", "float16", "bfloat16", "int64", "int32",
              "int16", "int8", "uint8", "bool"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter", "_rebuild_sparse_tensor"},
    "torch.nn.parameter": {"Parameter"},
    "torch.serialization": {"_get_layout"},
    "_codecs": {"encode"},
    "logging": {"getLogger"},
    "recbole.data.interaction": {"Interaction"},
    "numpy": {"dtype", "ndarray"},
    **{module: {"_reconstruct", "scalar"} for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{module: {"_frombuffer"} for module in ("numpy.core.numeric", "numpy._core.numeric")},
}
_ALLOWED = {(module, name) for table in (_CONTAINERS, _TENSORS) for module, names in table.items() for name in names}
_ENUMS = ("recbole.utils.enum_type",)
_MATRICES = "scipy.sparse."
_LAYERS = ("recbole.model.layers", "torch.nn.modules.")  # SASRecF keeps a layer beside its weights


class StoredConfig:
    """The values of a Config, without its class.

    Attributes:
        stands_for: module and name of that class.
    """

    stands_for: tuple[str, str]


class _Inert:
    """Stands where a checkpoint names something that is not looked up."""

    def __init__(self, *_args: Any, **_options: Any):
        pass


class PlainUnpickler(pickle.Unpickler):
    """Looks up harmless names only."""

    def find_class(self, module: str, name: str) -> Any:
        """The named object, or a stand-in for it."""
        module = "builtins" if module == "__builtin__" else module  # as protocol 2 calls it
        if (module, name) in _CONFIGS:
            return type("StoredConfig", (StoredConfig,), {"stands_for": (module, name)})
        found = _look_up(module, name) if _may_be_looked_up(module, name) else None
        return type(f"Unread_{name.replace('.', '_')}", (_Inert,), {"__module__": module}) if found is None else found


def all_files_are_trusted() -> bool:
    """Whether the user has switched off all such protection in torch's own way."""
    return os.environ.get(TRUST_VARIABLE, "").lower() in {"1", "y", "yes", "true"}


def load_checkpoint(file: Any, map_location: Any = None, **_options: Any) -> Any:
    """Replaces `torch.load` for checkpoints that RecBole's trainer wrote.

    Args:
        file: its path, or an open file.
        map_location: as in `torch.load`.

    Raises:
        FileNotFoundError: there is no such file.
        ModelError: it is no checkpoint of today's torch, or cut short.
    """
    import torch

    _check_archive(file)
    try:
        # torch's own weights-only reader lacks protocol 4; PlainUnpickler is as strict.
        checkpoint = torch.load(file, map_location=map_location, weights_only=False,
                                pickle_module=_plain_pickle())
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, ValueError, EOFError, KeyError) as error:
        raise _unreadable(file, next(iter(str(error).splitlines()), type(error).__name__)) from error
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("config"), StoredConfig):
        checkpoint["config"] = _as_config(checkpoint["config"])
    return checkpoint


def _plain_pickle() -> ModuleType:
    """What torch takes for the module `pickle`."""
    module = ModuleType("plain_pickle")
    module.Unpickler = PlainUnpickler
    return module


def _check_archive(file: Any) -> None:
    """Only what torch has written since 1.6: older files are read in other ways, and so is TorchScript."""
    with _opened(file) as opened:
        start = opened.tell()
        try:
            with zipfile.ZipFile(opened) as archive:
                names = [name.rsplit("/", 1)[-1] for name in archive.namelist()]
        except zipfile.BadZipFile as error:
            raise _unreadable(file, "it is cut short, or older than torch 1.6") from error
        finally:
            opened.seek(start)
    if "data.pkl" not in names or "constants.pkl" in names:
        raise _unreadable(file, "this archive is not one that a trainer writes")


def _opened(file: Any) -> Any:
    """A context that gives the opened file; one that is open already is left open."""
    return nullcontext(file) if hasattr(file, "read") else open(file, "rb")


def _may_be_looked_up(module: str, name: str) -> bool:
    return (module, name) in _ALLOWED or module.startswith((*_ENUMS, _MATRICES, *_LAYERS))


def _look_up(module: str, name: str) -> Any:
    from torch.nn import Module

    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    if (module, name) in _ALLOWED:
        return found
    is_data = isinstance(found, type) and (issubclass(found, (Enum, Module)) or
                                           found.__name__.endswith(("_matrix", "_array")))
    return found if is_data else None


def _as_config(stored: StoredConfig) -> Any:
    """A Config of the stored values. It is not constructed, which would read files and the process's command line."""
    from recbole.utils import get_model

    module, name = stored.stands_for
    class_ = getattr(importlib.import_module(module), name)
    config = class_.__new__(class_)
    vars(config).update(vars(stored))
    config.yaml_loader = config._build_yaml_loader()
    if isinstance(getattr(config, "model_class", None), type) and issubclass(config.model_class, _Inert):
        try:
            config.model_class = get_model(config.final_config_dict["model"])
        except (ValueError, KeyError, ModuleNotFoundError):
            config.model_class = None  # a class of the user's own; it is not looked up by the name in a file
    return config


def _unreadable(file: Any, cause: str) -> ModelError:
    return ModelError(f"the checkpoint cannot be read: {cause}", where=str(getattr(file, "name", file)),
                      remedy="copy it anew, or train again; RecBole's trainer must have written it")
