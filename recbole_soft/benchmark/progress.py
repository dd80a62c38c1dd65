"""What a benchmark says on stderr: a line per cell, and on a terminal one line that moves, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from recbole_soft.benchmark.cells import Cell
from recbole_soft.benchmark.process import last_lines

_WIDTH = 150


def duration(seconds: float) -> str:
    """`3 h 05 min`, `12 min`, `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def expected_seconds(cell: Cell, known: Sequence[Cell]) -> float | None:
    """How long a cell will take: the median of the likest cells that are known, None while there are none."""
    likenesses = (
        lambda other: (other.entry, other.dataset) == (cell.entry, cell.dataset),
        lambda other: (other.settings.get("llm"), other.dataset, "_" in other.entry.model)
        == (cell.settings.get("llm"), cell.dataset, "_" in cell.entry.model),
        lambda other: True,
    )
    timed = [other for other in known if other.seconds is not None]
    for is_like in likenesses:
        if alike := [other.seconds for other in timed if is_like(other)]:
            return median(alike)
    return None


class Progress:
    """Counts cells and writes about them.

    Args:
        cells: all that may run.
    """

    def __init__(self, cells: Sequence[Cell]):
        self._cells, self._started, self._shown = cells, time.monotonic(), ""
        self._moves = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def begin(self, cell: Cell, waiting: Sequence[Cell]) -> None:
        """A cell starts; `waiting` are the cells after it."""
        self._cell_started, self._waiting, self._cell = time.monotonic(), waiting, cell
        self.say(f"{self._counted(cell)} {cell.name}: running; {self._time_left()}")

    def tick(self, log: Path) -> None:
        """While a cell runs: on a terminal, time and the last line of its log."""
        if not self._moves:
            return
        lines = last_lines(log)
        text = (f"{duration(time.monotonic() - self._cell_started)}, {self._time_left()} | "
                f"{lines[-1] if lines else 'starting'}")[:_WIDTH]
        if text != self._shown:
            sys.stderr.write("\r" + text.ljust(len(self._shown)))
            sys.stderr.flush()
            self._shown = text

    def end(self, cell: Cell) -> None:
        """A cell is done or has failed."""
        seconds = time.monotonic() - self._cell_started
        if cell.failure is None:
            cell.seconds = seconds
            self.say(f"{self._counted(cell)} {cell.name}: done in {duration(seconds)}")
        else:
            self.say(f"{self._counted(cell)} {cell.name}: FAILED after {duration(seconds)}\n    "
                     + cell.failure.replace("\n", "\n    "))

    def _counted(self, cell: Cell) -> str:
        return f"[{self._cells.index(cell) + 1}/{len(self._cells)}]"

    def _time_left(self) -> str:
        expected = [expected_seconds(cell, self._cells) for cell in (self._cell, *self._waiting)]
        if expected[0] is None or None in expected:
            return "time left unknown"
        running = max(0.0, expected[0] - (time.monotonic() - self._cell_started))
        return f"about {duration(running + sum(expected[1:]))} left"

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""
