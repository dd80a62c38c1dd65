"""Refuses to put results into one table that were not measured on the same windows, candidates and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_soft.reporting.records import RecordError, RunRecord

# Settings that decide data, windows and candidates; every record has them as its `protocol`.
PROTOCOL_SETTINGS = (
    "window", "MAX_ITEM_LIST_LENGTH", "duplicate_titles", "mask_history", "eval_args", "user_inter_num_interval",
    "item_inter_num_interval", "train_sample", "valid_sample", "test_sample", "sample_seed")
# Traditional models train on the whole split, LLM methods on a sample of it: that is the paper's protocol.
MAY_DIFFER = frozenset({"train_sample"})
FINGERPRINTS = {"catalogue": "catalogues", "items": "numbers of items", "valid": "validation windows",
                "test": "test windows", "interactions": "interactions"}
# Old records lack it; every other fingerprint must be there.
SINCE_LATER = frozenset({"interactions"})


def check_comparable(runs: Sequence[RunRecord]) -> None:
    """Whether runs on one data set may stand in one table.

    Raises:
        RecordError: names the first setting of the protocol, or else the first fingerprint, that differs, with both
            values and both runs.
    """
    if not runs:
        return
    first = runs[0]
    for other in runs[1:]:
        for key in dict.fromkeys([*first.protocol, *other.protocol]):
            ours, theirs = first.protocol.get(key, "not recorded"), other.protocol.get(key, "not recorded")
            if key not in MAY_DIFFER and ours != theirs:
                raise _refusal(f"their protocols differ: {key} = {ours} and {key} = {theirs}", first, other)
        for key, what in FINGERPRINTS.items():
            ours, theirs = first.data.get(key), other.data.get(key)
            is_of_old = key in SINCE_LATER and None in (ours, theirs)
            if ours != theirs and not is_of_old:
                raise _refusal(f"their {what} differ: data.{key} = {ours} and data.{key} = {theirs}", first, other)


def _refusal(what: str, first: RunRecord, other: RunRecord) -> RecordError:
    def place(run: RunRecord) -> str:
        return f"{run.place} ({run.model}, seed {run.seed})"

    return RecordError(f"these runs cannot stand in one table; {what}", where=f"{place(first)} and {place(other)}",
                       remedy="compare runs of one protocol on the same data, or run one of them again")


def mixed_versions(runs: Sequence[RunRecord]) -> list[str]:
    """Sentences about versions of the code, libraries and machines that differ between the runs of a table."""
    notes = []
    models = [(run.raw.get("language_model") or {}).get("base_fingerprint") for run in runs]
    for what, values in (("commits of the code", [run.raw.get("commit") for run in runs]),
                         ("versions of torch", [_version(run, "torch") for run in runs]),
                         ("versions of transformers", [_version(run, "transformers") for run in runs]),
                         ("language models (fingerprints)", [model for model in models if model])):
        distinct = sorted({str(value) for value in values})
        if len(distinct) > 1:
            notes.append(f"runs of several {what}: {', '.join(distinct)}")
    return notes


def _version(run: RunRecord, package: str) -> Any:
    return (run.raw.get("versions") or {}).get(package)
