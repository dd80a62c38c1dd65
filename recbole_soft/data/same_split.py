"""Whether what a finished run trained may help another run: it must not have learned from that run's test windows.

Samples of the windows may differ: every sample is drawn within its split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_soft.errors import ModelError

# Whatever cuts and splits the data.
SAME_PROTOCOL = ("window", "MAX_ITEM_LIST_LENGTH", "duplicate_titles", "eval_args", "user_inter_num_interval",
                 "item_inter_num_interval")


def refuse_other_split(record: Mapping[str, Any], config, dataset, where: str, remedy: str) -> None:
    """Refuses a finished run whose training data may hold this run's test data.

    Args:
        record: the finished run's; what an old one does not tell is not compared.
        config, dataset: this run's.
        where, remedy: for the message.

    Raises:
        ModelError: its interactions, or a setting that cuts or splits them, are others; names the first.
    """
    if (record.get("data") or {}).get("interactions", "") not in ("", dataset.interactions_fingerprint()):
        raise ModelError("it was trained on other interactions: its training data may hold this run's test data",
                         where=where, remedy=f"train it anew on this data, or {remedy}")
    theirs = record.get("protocol", {})
    for name in SAME_PROTOCOL:
        if name in theirs and _split_of(theirs[name]) != _split_of(config[name]):
            raise ModelError(f"it was trained with {name} = {theirs[name]}, this run has {config[name]}: its training "
                             "data may hold this run's test data", where=where,
                             remedy=f"train it anew with the same settings of the data, or {remedy}")


def _split_of(value: Any) -> str:
    """A setting as text, `eval_args` without the candidates of the evaluation, which split nothing."""
    if isinstance(value, Mapping):
        value = {key: part for key, part in sorted(value.items()) if key != "mode"}
    return str(value)
