"""What may come from elsewhere and must not be taken at its word: names that become paths, settings of a record.

Knows neither files nor which settings exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from recbole_soft.errors import DataError

_PLAIN_NAME = re.compile(r"\w[\w.-]*")
# Consent that a person gives for a command; a record (a file that may come from anywhere) cannot give it.
ONLY_FROM_THE_USER = ("trust_remote_code",)


def check_dataset_name(name: str) -> None:
    """Raises DataError where the name of a data set is not a plain name: it becomes part of several paths."""
    if _PLAIN_NAME.fullmatch(name):
        return
    path = PurePath(name)
    split = f"give --data_path={path.parent} --dataset={path.name}"
    raise DataError(f"{name!r} is not the name of a data set", where="dataset",
                    remedy=split if _PLAIN_NAME.fullmatch(path.name) and "/" in name else "give a name such as game")


def recorded_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """`user_settings` of a run's record, without what only a person may say."""
    return {key: value for key, value in record["user_settings"].items() if key not in ONLY_FROM_THE_USER}
