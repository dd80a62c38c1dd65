"""Teaches RecBole our names: after `import recbole_soft`, RecBole's own functions know BIGRec_SOFT and the rest.

Applied once, right after RecBole is imported. Wraps the look-up functions of RecBole, which have no registry;
a RecBole model under a plain RecBole Config is left as it is.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from recbole_soft import compat
from recbole_soft.config import layers
from recbole_soft.registry import is_llm_name, llm_names, traditional_names

_MARK = "_knows_recbole_soft"


def install() -> None:
    """Applies the compatibility shims and registers models, trainers, data set class and loader."""
    compat.apply()
    layers.install()
    _register_datasets()
    _wrap("get_trainer", ("recbole.utils.utils", "recbole.utils", "recbole.quick_start.quick_start"), _our_trainer)
    _wrap("get_dataloader", ("recbole.data.utils", "recbole.data"), _our_loader)


def _register_datasets() -> None:
    """RecBole looks for `NAMEDataset` in its module of data sets.

    Ours is found there on demand: importing it here would be a circle for whoever imports it first.
    """
    module = importlib.import_module("recbole.data.dataset")
    names = {f"{name}Dataset" for name in (*llm_names(), *traditional_names())}

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        from recbole_soft.data.dataset import SoftDataset

        return SoftDataset

    module.__getattr__ = look_up


def _wrap(name: str, modules: tuple[str, ...], make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces a function of RecBole under every module that holds it."""
    original = getattr(importlib.import_module(modules[0]), name)
    if hasattr(original, _MARK):
        return
    wrapped = functools.wraps(original)(make(original))
    setattr(wrapped, _MARK, True)
    for module in modules:
        if hasattr(sys.modules.get(module), name):
            setattr(sys.modules[module], name, wrapped)


def _our_trainer(original: Callable[..., type]) -> Callable[..., type]:
    def get_trainer(model_type, model_name: str) -> type:
        if is_llm_name(model_name):
            from recbole_soft.trainer.llm_trainer import LLMTrainer

            return LLMTrainer
        return original(model_type, model_name)

    return get_trainer


def _our_loader(original: Callable[..., type]) -> Callable[..., type]:
    def get_dataloader(config, phase: str) -> type:
        from recbole.data.dataloader import FullSortEvalDataLoader

        from recbole_soft.data.loader import MaskedEvalDataLoader

        loader = original(config, phase)
        return MaskedEvalDataLoader if loader is FullSortEvalDataLoader and config["mask_history"] else loader

    return get_dataloader
