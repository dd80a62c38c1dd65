"""Finds and reads the records of runs: `run.json` and, beside it, the rank of the target in every test window.

A record is read whole or refused; what is in it is never guessed. Summaries of many runs (`summaries.py`) give the
same objects. Knows nothing of tables and statistics.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recbole_soft.artifacts import read_json
from recbole_soft.errors import UserError
from recbole_soft.reporting.record import RECORD_FILE, SCHEMA_VERSION

_NEEDED: dict[str, type | tuple[type, ...]] = {
    "model": str, "dataset": str, "seed": int, "config": Mapping, "user_settings": Mapping, "data": Mapping,
    "protocol": Mapping, "protocol_fingerprint": str, "stages": Mapping, "curves": list, "results": list,
}
_NEEDED_OF_DATA = ("test", "valid", "train", "items", "test_windows")
_NO_RESULTS = {"artifacts", "tune"}
_NEEDED_OF_RESULT = ("label", "stage", "windows", "ranks_file", "metrics")
_COUNTS = ("history", "popularity")


class RecordError(UserError):
    """A record that cannot be read, or records that cannot be compared."""


class UntestedError(RecordError):
    """A run that was ended before the test, as the trials of a search are."""


@dataclass(frozen=True)
class WindowTable:
    """A method's rank in every test window, and what the run wrote about the windows beside it.

    Attributes:
        ranks: [n] int, 1 is best; in the order of the test windows.
        columns: further columns of the ranks file, [n] each: `user` and `target` (text), `history` and `popularity`
            (int); those that the file has.
    """

    ranks: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunResult:
    """One row of a run's table: a stage's weights on the test windows.

    Attributes:
        run: the run it belongs to.
        label: such as `BIGRec SOFT`.
        stage: such as `soft`; `test` for models without stages.
        raw: the entry of `results` in run.json.
        table: ranks of all test windows.
    """

    run: RunRecord = field(repr=False)
    label: str
    stage: str
    raw: Mapping[str, Any] = field(repr=False)
    table: WindowTable = field(repr=False)

    @property
    def ranks(self) -> np.ndarray:
        """[n] rank of the target in every test window."""
        return self.table.ranks

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """As the run reported them: `{"HR@5": {"value", "low", "high"}, ...}`."""
        return self.raw["metrics"]

    @property
    def valid_score(self) -> float | None:
        """Validation score of the row's own stage, with its injection; None where it is unknown or no number."""
        record, injection = self.run.raw, self.raw.get("injection") or {}
        of_run = record.get("best_valid_score") if self.stage == record["results"][-1]["stage"] else None
        of_stage = record["stages"].get(self.stage, {}).get("valid_score", of_run)
        score = injection.get("valid_score", of_stage)
        return None if score is None or math.isnan(score) else score


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A finished run.

    Attributes:
        place: run folder, or where in a summary it stands; for messages.
        raw: content of run.json.
        results: rows of its table in the order of its stages.
    """

    place: str
    raw: Mapping[str, Any] = field(repr=False)
    results: tuple[RunResult, ...] = field(default=(), repr=False)

    @property
    def model(self) -> str:
        return self.raw["model"]

    @property
    def dataset(self) -> str:
        return self.raw["dataset"]

    @property
    def seed(self) -> int:
        return self.raw["seed"]

    @property
    def config(self) -> Mapping[str, Any]:
        """All resolved settings."""
        return self.raw["config"]

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Settings that decide data, candidates and windows."""
        return self.raw["protocol"]

    @property
    def data(self) -> Mapping[str, Any]:
        """Sizes and fingerprints of the data: `catalogue`, `train`, `valid`, `test`, `files`."""
        return self.raw["data"]

    @cached_property
    def curves_by_stage(self) -> dict[str, list[Mapping[str, Any]]]:
        """Rows of the training curves, one per epoch, by stage."""
        stages: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.raw["curves"]:
            stages.setdefault(row["stage"], []).append(row)
        return stages

    def result(self, stage: str) -> RunResult | None:
        """The row of a stage."""
        return next((result for result in self.results if result.stage == stage), None)


def read_run(place: Path) -> RunRecord:
    """Reads a run from its folder or its run.json.

    Raises:
        RecordError: a file is missing or damaged, has another schema, or ranks and metrics contradict each other.
    """
    folder = place.parent if place.name == RECORD_FILE else place
    try:
        raw = read_json(folder / RECORD_FILE)
    except (OSError, ValueError) as error:
        raise RecordError("there is no readable record of a run", where=str(folder / RECORD_FILE),
                          remedy="give the folder that a finished run printed") from error
    tables = {}
    check_raw(raw, str(folder))
    for result in raw["results"]:
        file = folder / Path(result["ranks_file"]).name
        tables[result["stage"]] = read_ranks(file)
    return with_tables(raw, tables, str(folder))


def with_tables(raw: Mapping[str, Any], tables: Mapping[str, WindowTable], place: str) -> RunRecord:
    """A record from its parts, checked.

    Args:
        raw: content of run.json.
        tables: ranks by stage.
        place: where it was read, for messages.

    Raises:
        RecordError: it is no record of ours, or ranks and metrics contradict each other.
    """
    check_raw(raw, place)
    run = RunRecord(place, raw)
    results = []
    for entry in raw["results"]:
        table = tables[entry["stage"]]
        result = RunResult(run, entry["label"], entry["stage"], entry, table)
        _check_ranks(result, place)
        results.append(result)
    object.__setattr__(run, "results", tuple(results))
    return run


def find_runs(places: Iterable[Path]) -> list[Path]:
    """Folders of finished runs below the given folders, sorted; a run folder or a run.json may be given itself.

    Companions that other runs trained on the way (below `artifacts`) and trials of searches (below `tune`, never
    tested) are no results and are left out.

    Raises:
        RecordError: a place does not exist or holds no run.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.name == RECORD_FILE and place.is_file():
            folders = [place.parent]
        else:
            folders = sorted(path.parent for path in place.rglob(RECORD_FILE)
                             if not _NO_RESULTS & set(path.relative_to(place).parts))
        if not folders:
            what = "there is no finished run in this folder" if place.is_dir() else "there is no such folder"
            raise RecordError(what, where=str(place), remedy="give run folders, or a folder that holds some")
        found.update(dict.fromkeys(folders))
    return list(found)


def read_records(places: Iterable[Path]) -> list[RunRecord]:
    """All tested runs below the given folders; see `find_runs` and `read_run`. Trials of searches are left out."""
    folders, runs = find_runs(places), []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UntestedError:
            if len(folders) == 1:
                raise
    if not runs:
        raise RecordError("no run here was tested", where=str(folders[0]), remedy="give runs that ended with a test")
    return runs


def read_ranks(file: Path) -> WindowTable:
    """Reads `ranks_STAGE.csv`.

    Raises:
        RecordError: it is missing or damaged.
    """
    remedy = "run it again: the same command writes it anew"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        ranks = np.array([int(row["rank"]) for row in rows], dtype=np.int64)
        if [int(row["window"]) for row in rows] != list(range(len(rows))) or len(ranks) == 0 or ranks.min() < 1:
            raise ValueError("windows or ranks are not in order")
        columns = {name: np.array([int(row[name]) if name in _COUNTS else row[name] for row in rows])
                   for name in rows[0] if name not in ("window", "rank")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"the ranks of a run cannot be read: {error}", where=str(file), remedy=remedy) from error
    return WindowTable(ranks, columns)


def check_raw(raw: Any, place: str) -> None:
    """Whether run.json has the schema and the parts that readers rely on.

    Raises:
        RecordError: it has not.
    """
    remedy = "run it again with this version"
    if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA_VERSION:
        schema = raw.get("schema") if isinstance(raw, Mapping) else None
        raise RecordError(f"the record has schema {schema}, this version reads {SCHEMA_VERSION}", place, remedy)
    if raw.get("tested") is False:
        raise UntestedError("this run ended with validation, as the trials of a search do", place,
                            "give runs that ended with a test")
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(raw.get(name), kind)]
    wrong += [f"data.{name}" for name in _NEEDED_OF_DATA if not wrong and name not in raw["data"]]
    if not wrong:
        wrong += [f"results.{name}" for result in raw["results"] for name in _NEEDED_OF_RESULT
                  if not isinstance(result, Mapping) or name not in result]
    if wrong or not raw["results"]:
        raise RecordError(f"the record lacks {', '.join(wrong) or 'results'}", place, remedy)


def _check_ranks(result: RunResult, place: str) -> None:
    """A record and a ranks file of different runs would give tests of something that never was."""
    count = result.raw["windows"]
    if len(result.ranks) != count:
        raise RecordError(f"the record speaks of {count} test windows, the ranks are of {len(result.ranks)}",
                          f"{place}, {result.label}", "run it again: the same command writes both anew")
    for name, metric in result.metrics.items():
        kind, _, cutoff = name.partition("@")
        share = float((result.ranks <= int(cutoff)).mean()) if kind == "HR" else metric["value"]
        if abs(share - metric["value"]) > 1e-9:
            raise RecordError(f"the record has {name} = {metric['value']:.6f}, its ranks give {share:.6f}",
                              f"{place}, {result.label}", "run it again: the same command writes both anew")
