"""Keeps RecBole from running the text of a setting as Python.

Symptom: silent. `--note="__import__('os').system('...')"` on the command line, or the same text in `config_dict`, in
    a file of search spaces or in a checkpoint's settings, is executed. Harmless text changes, too: `1-2` becomes -1.
Where: recbole 1.2.1 config/configurator.py:131, trainer/hyper_tuning.py:239, and
    model/context_aware_recommender/kd_dagfm.py:44, which evaluates the name of the teacher's class.
Upstream: none looked for.
Guard: always needed.
Can go when: RecBole reads values with `ast.literal_eval` or YAML.

`SoftConfig` reads strings by the rules of our YAML files and never comes here; this is for RecBole's own Config.
Literals (`3`, `[1, 2]`, `{'a': 1}`, `'text'`, `None`) mean what they meant; anything else stays the text it is.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any


def is_needed() -> bool:
    """Every known RecBole evaluates strings."""
    return True


def apply() -> None:
    """Put a reader of literals where these modules look for the built-in `eval`."""
    from recbole.config import configurator
    from recbole.model.context_aware_recommender import kd_dagfm
    from recbole.trainer import hyper_tuning

    configurator.eval = hyper_tuning.eval = literal_value
    kd_dagfm.eval = _class_of(vars(kd_dagfm))


def literal_value(text: str) -> Any:
    """Value of a Python literal.

    Raises:
        SyntaxError: it is no literal; RecBole then takes the text for what it is.
    """
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise SyntaxError(f"not a literal: {text[:80]!r}") from error


def _class_of(names: dict[str, Any]) -> Callable[[str], type]:
    def look_up(name: str) -> type:
        found = names.get(name)
        if not isinstance(found, type):
            raise ValueError(f"there is no class called {name!r}")
        return found

    return look_up
