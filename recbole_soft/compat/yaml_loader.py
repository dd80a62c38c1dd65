"""Keeps RecBole from teaching PyYAML its notation of floats anew with every Config.

Symptom: silent. Every Config adds the same 13 rules to PyYAML's own `FullLoader`, for the whole process: after 200 runs
    a number in a YAML file is held against 200 copies of one pattern.
Where: recbole 1.2.1 config/configurator.py:107.
Upstream: none looked for; found by `python -m tests.soak`.
Guard: the method adds rules to a loader.
Can go when: RecBole makes a loader of its own, once.

The loader stays PyYAML's own: RecBole's checkpoints name it, and have to be readable without this package.
"""

from __future__ import annotations


def is_needed() -> bool:
    """Whether RecBole's Config adds rules to a loader each time."""
    from recbole.config.configurator import Config

    return "add_implicit_resolver" in Config._build_yaml_loader.__code__.co_names


def apply() -> None:
    """Have RecBole teach the loader now, once, and give it to every Config."""
    from recbole.config.configurator import Config

    loader = Config._build_yaml_loader(None)
    Config._build_yaml_loader = lambda _self: loader
