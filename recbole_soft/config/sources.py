"""The user's own layers: files, dictionary and command line, merged, and where each key came from.

Knows neither which settings exist nor which values are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_soft.config.yaml_files import load_yaml


def user_settings(config_files: Sequence[str | Path], config_dict: Mapping[str, Any],
                  command_line: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge the user's layers, the later winning key by key.

    Args:
        config_files: YAML files, the last one winning.
        config_dict: stronger than the files.
        command_line: `{key: text}`, stronger than both.

    Returns:
        The merged values, and for each key where it was set.

    Raises:
        SettingError: a file is missing or broken.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for path in config_files:
        file = load_yaml(path)
        values.update(file.values)
        sources.update({key: file.place(key) for key in file.values})
    values.update(config_dict)
    sources.update(dict.fromkeys(config_dict, "config_dict"))
    values.update(command_line)
    sources.update({key: f"command line (--{key}={text})" for key, text in command_line.items()})
    return values, sources


def split_config_files(text: str) -> list[str]:
    """`a.yaml,b.yaml` or, RecBole's way, `a.yaml b.yaml`; a file whose name has spaces is kept whole."""
    if "," not in text and Path(text).is_file():
        return [text]
    return [part.strip() for part in re.split(r"," if "," in text else r"\s+", text) if part.strip()]
