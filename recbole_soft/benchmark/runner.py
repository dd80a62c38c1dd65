"""Runs the cells of a benchmark that have no valid run yet, one after the other, and collects their rows.

What is done is known from the runs themselves and from nothing else: after a kill, the same command goes on. A cell
that fails is reported and the rest goes on. Does not know tables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import make_folder, read_json, write_json
from recbole_soft.benchmark.cells import SFT, SFT_STAGE, Cell, lends_its_sft_row, provided_folder, strategy_name
from recbole_soft.benchmark.entries import TEACHER
from recbole_soft.benchmark.process import run_cell
from recbole_soft.benchmark.progress import Progress
from recbole_soft.benchmark.validity import Validity
from recbole_soft.data.sources import local_dataset
from recbole_soft.errors import UserError
from recbole_soft.registry import is_llm_name, split_name
from recbole_soft.reporting.record import RECORD_FILE
from recbole_soft.reporting.records import RunRecord
from recbole_soft.resuming.locks import only_process_in
from recbole_soft.run_folders import remove_half_written

TIMES_FILE = "times.json"


@dataclass
class Benchmark:
    """The state of a benchmark.

    Attributes:
        work: folder for logs, exported teachers and the lock.
        notes: sentences for the table, by data set: what was chosen.
    """

    cells: list[Cell]
    work: Path
    validity: Validity
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = dict(os.environ)  # before RecBole sets variables of its own
        self._configs: dict[Cell, object] = {}
        self._chosen: dict[tuple[str, str], Mapping[str, Any]] = {}

    # ---- what is there ---------------------------------------------------------------------------
    def config(self, cell: Cell):
        """The run's settings, resolved as the run itself will resolve them."""
        from recbole_soft.config.soft_config import SoftConfig

        if cell not in self._configs:
            self._configs[cell] = SoftConfig(cell.entry.model, cell.dataset, command_line=cell.command(self.teachers))
        return self._configs[cell]

    @property
    def teachers(self) -> Path:
        return self.work / "teachers"

    def is_known(self, cell: Cell) -> bool:
        """Whether all runs that the cell needs are there, so that its settings are known."""
        return all(provider.result is not None and (setting != TEACHER or self._has_teacher(cell))
                   for setting, provider in cell.needs.items())

    def _has_teacher(self, cell: Cell) -> bool:
        """Whether the teacher was written after the run that it is of."""
        file, run = self._teacher_file(cell), Path(cell.needs[TEACHER].result.run.place) / RECORD_FILE
        return file.is_file() and run.is_file() and file.stat().st_mtime >= run.stat().st_mtime

    def _teacher_file(self, cell: Cell) -> Path:
        return provided_folder(cell, TEACHER, cell.needs[TEACHER], self.teachers) / "teacher.json"

    def look(self, cell: Cell) -> str:
        """Takes the cell's row from a run that is there; returns why there is none, empty if nothing was ever run."""
        if not self.is_known(cell):
            return ""
        run, why = self._own_run(cell)
        if run is not None:
            cell.result = run.results[-1]
            cell.seconds = cell.seconds or self._times().get(run.place) or sum(run.raw.get("seconds", {}).values())
            return ""
        if lender := next((lender for lender in self.lenders(cell) if lender.result is not None), None):
            cell.result = lender.result.run.result(SFT_STAGE)
            if cell.result is not None:
                return ""
        return why

    def _own_run(self, cell: Cell) -> tuple[RunRecord | None, str]:
        data_path = cell.settings.get("data_path")
        return self.validity.find(run_folder_of(self.config(cell)), local_dataset(cell.dataset, data_path),
                                  [provider.result.run for provider in cell.needs.values()])

    def lenders(self, cell: Cell) -> list[Cell]:
        """Cells whose runs begin with the stage that this SFT cell consists of."""
        if strategy_name(cell.entry.model) != SFT or cell.needs:
            return []
        base = split_name(cell.entry.model)[0].name
        return [other for other in self.cells if other is not cell and is_llm_name(other.entry.model)
                and (other.dataset, other.seed) == (cell.dataset, cell.seed) and not other.needs
                and split_name(other.entry.model)[0].name == base
                and lends_its_sft_row(self.config(other), self.config(cell))]

    def _times(self) -> dict[str, float]:
        """Seconds that whole cells took, start of the process included, by run folder; for the time left."""
        try:
            return read_json(self.work / TIMES_FILE)
        except (OSError, ValueError):
            return {}

    # ---- grids that are decided on validation ----------------------------------------------------
    def is_left_out(self, cell: Cell) -> bool:
        """Whether a grid was decided against the cell's variant."""
        return cell.entry.choose and self._choice(cell) not in (None, cell.variant)

    def is_chosen(self, cell: Cell) -> bool:
        """Whether a grid was decided for the cell's variant."""
        return cell.entry.choose and self._choice(cell) == cell.variant

    def awaits_choice(self, cell: Cell) -> bool:
        """Whether the grid that the cell belongs to is not decided yet."""
        return cell.entry.choose and not cell.is_search and self._choice(cell) is None

    def _choice(self, cell: Cell) -> Mapping[str, Any] | None:
        """The variant with the best validation score of the first seed; None until all of them are there."""
        key = (cell.entry.title, cell.dataset)
        if key not in self._chosen:
            search = [other for other in self.cells if other.is_search and other.entry is cell.entry
                      and other.dataset == cell.dataset]
            of_cell = {other: other.result and other.result.valid_score for other in search}
            if None in of_cell.values():
                return None  # not all there, or one whose loss was no number
            better = max if search[0].result.run.config.get("valid_metric_bigger", True) else min
            best = better(search, key=of_cell.__getitem__)
            metric = best.result.run.config["valid_metric"]
            scores = ", ".join(f"{_told(other)}: {score:.4f}" for other, score in of_cell.items())
            self.notes.setdefault(cell.dataset, []).append(
                f"{cell.entry.title}: {_told(best)}, chosen by validation {metric} of seed {best.seed} ({scores})")
            self._chosen[key] = best.variant
        return self._chosen[key]

    # ---- running ---------------------------------------------------------------------------------
    def run(self) -> None:
        """Runs what is missing; afterwards every cell has a result, a failure, or was left out by a choice."""
        progress = Progress(self.cells)
        make_folder(self.work, "checkpoint_dir")
        with only_process_in(self.work, "give this one another --checkpoint_dir"):
            remove_half_written(self.work)
            for cell in self.cells:  # what is there already takes no time
                self._glance(cell)
            for number, cell in enumerate(self.cells):
                if self._settled(cell, progress):
                    continue
                waiting = [other for other in self.cells[number + 1:] if other.result is None
                           and not self.is_left_out(other) and not self.lenders(other)]
                progress.begin(cell, waiting)
                self._run(cell, progress)
                progress.end(cell)
                if cell.failure is None:
                    write_json(self.work / TIMES_FILE, self._times() | {cell.result.run.place: round(cell.seconds, 1)})

    def _glance(self, cell: Cell) -> None:
        """Looks at a cell for the time left; what is wrong with it is said when it is its turn."""
        if not self.awaits_choice(cell):
            with suppress(UserError):
                self.look(cell)

    def _settled(self, cell: Cell, progress: Progress) -> bool:
        """Whether there is nothing to run; says why when something was there and is not taken."""
        if missing := [provider.name for provider in cell.needs.values() if provider.result is None]:
            cell.failure = f"not run: it needs {missing[0]}, which failed"
            progress.say(f"{cell.name}: {cell.failure}")
            return True
        if self.awaits_choice(cell):
            cell.failure = "not run: the search for its settings is incomplete"
            return True
        if not cell.is_search and self.is_left_out(cell):
            return True
        cell.result = None  # what it needs may have been run again since it was looked at
        try:
            why = self.look(cell)
        except UserError as error:  # settings are checked before, but a folder that another run made is not
            cell.failure = str(error)
            progress.say(f"{cell.name}: FAILED\n    {cell.failure}")
            return True
        if cell.result is None and why:
            progress.say(f"{cell.name}: runs again, because {why}")
        return cell.result is not None

    def _run(self, cell: Cell, progress: Progress) -> None:
        log = self.work / "logs" / f"{cell.name.replace(' ', '_').replace(',', '').replace('/', '-')}.log"
        commands, goes_on = [], self._goes_on(cell)
        if TEACHER in cell.needs and not self._has_teacher(cell):
            goes_on = {}  # what an earlier teacher taught is no part of this run
            provider = cell.needs[TEACHER].result
            commands.append(["export-teacher", f"--run={provider.run.place}", f"--stage={provider.stage}",
                             f"--out={self._teacher_file(cell).parent}",
                             *(f"--{key}={value}" for key, value in cell.entry.export.items())])
        options = {"show_progress": "False", **goes_on, **cell.command(self.teachers)}
        commands.append([f"--model={cell.entry.model}", f"--dataset={cell.dataset}",
                         *(f"--{key}={value}" for key, value in options.items())])
        for words in commands:
            cell.failure = run_cell(words, log, self.environment, lambda: progress.tick(log))
            if cell.failure is not None:
                return
        why = self.look(cell)
        if cell.result is None:
            cell.failure = f"the run ended well, but its record does not count: {why or 'it is not where it belongs'}"

    def _goes_on(self, cell: Cell) -> dict[str, str]:
        """A run that was interrupted goes on; one whose record does not count starts anew."""
        is_finished = (run_folder_of(self.config(cell)) / RECORD_FILE).is_file() if self.is_known(cell) else False
        return {} if is_finished else {"resume": "True"}


def run_folder_of(config) -> Path:
    """The folder that a run with these settings has."""
    from recbole_soft.run import run_folder

    return run_folder(config)


def _told(cell: Cell) -> str:
    return " ".join(f"{key}={value}" for key, value in cell.variant.items())


def failures(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that could not be run."""
    return [cell for cell in cells if cell.failure is not None]
