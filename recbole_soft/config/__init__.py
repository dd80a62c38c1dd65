"""Settings: what exists (`schema`), where values come from (`layers`, `yaml_files`), whether they make sense
(`validate`), and RecBole's Config built from them (`soft_config`).

Importing this package imports neither torch nor RecBole; `SoftConfig` is looked up on first use.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SoftConfig"]


def __getattr__(name: str) -> Any:
    if name == "SoftConfig":
        from recbole_soft.config.soft_config import SoftConfig

        return SoftConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
