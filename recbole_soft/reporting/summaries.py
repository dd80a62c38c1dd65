"""Compact summaries of runs, to be kept in a repository: everything a comparison needs, no weights.

`summary.json` holds the records, settings that all runs share once; `ranks.npz` holds the rank of every test window
of every row. Intervals and tests are worked out anew from them, so that the table printed from a summary is the one
printed from the runs.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_soft.artifacts import disk_errors, in_place_of, make_folder, read_json, write_text
from recbole_soft.errors import SettingError, nearest
from recbole_soft.reporting.comparison import SHOWN, Comparison, check_baseline, compare_methods
from recbole_soft.reporting.methods import Method
from recbole_soft.reporting.record import plain
from recbole_soft.reporting.records import RecordError, RunRecord, WindowTable, with_tables

SUMMARY_FILE = "summary.json"
RANKS_FILE = "ranks.npz"
SUMMARY_SCHEMA = 1
# What a summary leaves out: paths of this machine, and what only a report on one run shows.
_LEFT_OUT = ("config", "recbole_test_result", "working_folder")
_PATHS = ("run_folder", "checkpoint_dir", "artifacts_dir", "data_path")
_DIGITS = 6
_COLUMNS = ("user", "history", "popularity")


@dataclass(frozen=True)
class Summary:
    """What a table is made from, and how it is shown when nothing else is asked for.

    Attributes:
        methods: rows of the table, in its order.
        notes: sentences below the table, by data set.
    """

    methods: Sequence[Method]
    metrics: Sequence[str] = SHOWN
    baseline: str | None = None
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def narrowed(self, datasets: Sequence[str], metrics: Sequence[str], baseline: str) -> Summary:
        """The same for some data sets and metrics, against another baseline; what is empty stays as it is.

        Raises:
            SettingError: there is no run on a data set.
            RecordError: there is no such baseline.
        """
        known = {method.dataset for method in self.methods}
        if missing := [name for name in datasets if name not in known]:
            raise SettingError(f"there is no run on '{missing[0]}'", "--datasets", nearest(missing[0], known))
        methods = [method for method in self.methods if method.dataset in (datasets or known)]
        if baseline:  # a kept one may belong to another data set
            check_baseline(methods, baseline)
        return Summary(methods, metrics or self.metrics, baseline or self.baseline, self.notes)

    def compared(self) -> Comparison:
        """The table."""
        return compare_methods(self.methods, self.metrics, self.baseline, self.notes)


def write_summary(folder: Path, summary: Summary) -> Path:
    """Writes a summary and returns `folder`; what an earlier one left there is replaced.

    Raises:
        UserError: the folder cannot be written.
    """
    methods = summary.methods
    runs = list({id(result.run): result.run for method in methods for result in method.results}.values())
    numbers = {id(run): number for number, run in enumerate(runs)}
    common = _common([run.config for run in runs])
    arrays: dict[str, np.ndarray] = {}
    entries = []
    for number, run in enumerate(runs):
        raw = {key: value for key, value in run.raw.items() if key not in _LEFT_OUT}
        raw["config"] = {key: value for key, value in run.config.items() if key not in common and key not in _PATHS}
        raw["absent"] = [key for key in common if key not in run.config]
        entries.append(_placeless(_rounded(plain(raw)), _places(run)))
        for result in run.results:
            arrays[f"{number}/{result.stage}"] = result.ranks.astype(np.uint32)
            arrays |= {f"{name}/{run.dataset}": column for name, column in _columns(result.table).items()}
    make_folder(folder, "save")
    content = {
        "schema": SUMMARY_SCHEMA, "metrics": list(summary.metrics), "baseline": summary.baseline,
        "notes": {dataset: list(lines) for dataset, lines in summary.notes.items()},
        "methods": [{"label": method.label, "name": method.name,
                     "results": [[numbers[id(result.run)], result.stage] for result in method.results]}
                    for method in methods],
        "common": plain({key: value for key, value in common.items() if key not in _PATHS}), "runs": entries,
    }
    ranks = folder / RANKS_FILE
    with disk_errors(ranks), in_place_of(ranks) as unfinished, unfinished.open("xb") as file:
        np.savez_compressed(file, **arrays)
    write_text(folder / SUMMARY_FILE, _json(content))
    return folder


def read_summary(folder: Path) -> Summary:
    """What `write_summary` wrote.

    Raises:
        RecordError: a file is missing or damaged.
    """
    try:
        content = read_json(folder / SUMMARY_FILE)
        if content["schema"] != SUMMARY_SCHEMA:
            raise ValueError(f"schema {content['schema']}, this version reads {SUMMARY_SCHEMA}")
        with np.load(folder / RANKS_FILE, allow_pickle=False) as arrays:
            runs = [_run(raw, number, content["common"], arrays, folder) for number, raw in enumerate(content["runs"])]
        methods = [Method(entry["label"], tuple(runs[number].result(stage) for number, stage in entry["results"]),
                          entry["name"]) for entry in content["methods"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise RecordError(f"there is no readable summary: {error}", where=str(folder),
                          remedy=f"give a folder that holds {SUMMARY_FILE} and {RANKS_FILE}") from error
    return Summary(methods, content["metrics"], content["baseline"], content["notes"])


def _columns(table: WindowTable) -> dict[str, np.ndarray]:
    """What is known of the test windows, without names: users become numbers."""
    columns = {name: table.columns[name] for name in _COLUMNS if name in table.columns}
    if "user" in columns:
        columns["user"] = np.unique(columns["user"], return_inverse=True)[1]
    return {name: column.astype(np.uint32) for name, column in columns.items()}


def _run(raw: dict[str, Any], number: int, common: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
         folder: Path) -> RunRecord:
    absent = set(raw.pop("absent"))
    raw["config"] = {key: value for key, value in common.items() if key not in absent} | raw["config"]
    columns = {name: arrays[f"{name}/{raw['dataset']}"] for name in _COLUMNS if f"{name}/{raw['dataset']}" in arrays}
    tables = {result["stage"]: WindowTable(arrays[f"{number}/{result['stage']}"].astype(np.int64), columns)
              for result in raw["results"]}
    return with_tables(raw, tables, f"{folder}, run {number}")


def _places(run: RunRecord) -> list[str]:
    """Folders of the machine that a run's paths lie in, longest first."""
    places = {str(run.config.get(key) or "") for key in _PATHS} | {str(run.raw.get("working_folder") or "")}
    return sorted((place for place in places if Path(place).is_absolute()), key=len, reverse=True)


def _placeless(value: Any, places: Sequence[str]) -> Any:
    """The same without these folders in front of paths."""
    if isinstance(value, Mapping):
        return {key: _placeless(one, places) for key, one in value.items()}
    if isinstance(value, list):
        return [_placeless(one, places) for one in value]
    place = next((place for place in places if value == place or str(value).startswith(f"{place}/")), None)
    return value if place is None else value.removeprefix(place).removeprefix("/")


def _common(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings that most runs have in common, with the value they share; runs that differ say so themselves."""
    first = configs[0]
    return {key: value for key, value in first.items()
            if all(config[key] == value for config in configs if key in config)}


def _rounded(value: Any) -> Any:
    """Floats with as many digits as anybody reads; metrics keep theirs, because ranks are checked against them."""
    if isinstance(value, Mapping):
        return {key: item if key in ("metrics", "config", "user_settings", "protocol") else _rounded(item)
                for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _json(content: Mapping[str, Any]) -> str:
    """JSON with one line per run, so that a summary stays small and a change of one run is a change of one line."""
    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, default=str)

    parts = [f'"{key}": {line(value)}' for key, value in content.items() if key not in ("runs", "methods")]
    for key in ("methods", "runs"):
        parts.append(f'"{key}": [\n  ' + ",\n  ".join(line(entry) for entry in content[key]) + "\n ]")
    return "{\n " + ",\n ".join(parts) + "\n}\n"
