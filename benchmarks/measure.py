"""Times two ways of doing the same in turn, and the memory of each.

Rounds are interleaved (ours, plain, plain, ours, ...), so that a change of load on the machine falls on both,
and ratios are taken within a round. Memory has rounds of its own: to find a peak, freed memory must first be given
back to the system, and getting it again would be timed too (measured: it made a training step of ours a third
slower, one of the plain way a sixth). Knows nothing of what runs.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

Outcome = Any
MEMORY_ROUNDS = 3


class Stage(ABC):
    """One thing done two ways.

    Attributes:
        name: what `--stages` and the table call it.
        what: one line on the work.
        target: least wanted ratio of times, if there is one.
        memory_target: least wanted ratio of peak memory, if there is one.
        is_long: too long for a warm-up of its own, and for more than one round of memory.
        repeats: runs one after the other that a round times; seconds are those of one.
    """

    name = ""
    what = ""
    target: float | None = None
    memory_target: float | None = None
    is_long = False
    repeats = 1

    def prepare(self) -> None:  # noqa: B027  (most stages have nothing to prepare)
        """Undoes what an earlier run left behind; called before every run, not timed."""

    @abstractmethod
    def ours(self) -> Outcome:
        """Does it our way."""

    @abstractmethod
    def plain(self) -> Outcome:
        """Does it as the published pipeline does."""

    @abstractmethod
    def equality(self, ours: Outcome, plain: Outcome) -> dict[str, float]:
        """How equal two outcomes are, by name: relative errors, or shares of equal results."""


@dataclass(frozen=True)
class Spread:
    """Least, median and greatest of several values."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True)
class Measurement:
    """What came out for one stage; times in seconds, memory in MB above what was in use before."""

    name: str
    what: str
    rounds: int
    ours_seconds: Spread
    plain_seconds: Spread
    ratio: Spread
    target: float | None
    equality: dict[str, float] = field(default_factory=dict)
    ours_memory_mb: float | None = None
    plain_memory_mb: float | None = None
    memory_target: float | None = None

    @property
    def memory_ratio(self) -> float | None:
        """Plain over ours; None where memory was not measured."""
        if self.ours_memory_mb is None or self.plain_memory_mb is None:
            return None
        return self.plain_memory_mb / max(self.ours_memory_mb, 0.1)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"memory_ratio": self.memory_ratio}


def measure(stage: Stage, rounds: int, device: torch.device) -> Measurement:
    """Runs a stage both ways: once for warmth and equality, then `rounds` times against the clock, then for memory.

    A long stage skips the first; its equality is that of its first round. Memory is the median of its rounds.
    """
    ways = {"ours": stage.ours, "plain": stage.plain}
    first: dict[str, Outcome] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, list[float | None]] = {name: [] for name in ways}
    if not stage.is_long:
        for name, run in ways.items():
            stage.prepare()
            first[name] = run()
    for number in range(rounds):
        for name in ways if number % 2 == 0 else reversed(ways):
            outcome, time_taken = _timed(stage, ways[name], device)
            first.setdefault(name, outcome)
            seconds[name].append(time_taken)
    for _ in range(1 if stage.is_long else MEMORY_ROUNDS):
        for name, run in ways.items():
            stage.prepare()
            memory[name].append(observed(run, device)[2])
    ratios = [slow / fast for fast, slow in zip(seconds["ours"], seconds["plain"], strict=True)]
    return Measurement(
        stage.name, stage.what, rounds, Spread.of(seconds["ours"]), Spread.of(seconds["plain"]), Spread.of(ratios),
        stage.target, stage.equality(first["ours"], first["plain"]), _median(memory["ours"]), _median(memory["plain"]),
        stage.memory_target,
    )


def _timed(stage: Stage, run: Callable[[], Outcome], device: torch.device) -> tuple[Outcome, float]:
    """The last outcome of `stage.repeats` runs, and the seconds of one."""
    seconds, outcome = 0.0, None
    for _ in range(stage.repeats):
        outcome = None  # what the run before returned is freed outside the clock
        stage.prepare()
        gc.collect()
        _wait_for(device)
        started = time.perf_counter()
        outcome = run()
        _wait_for(device)
        seconds += time.perf_counter() - started
    return outcome, seconds / stage.repeats


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def observed(run: Callable[[], Outcome], device: torch.device) -> tuple[Outcome, float, float | None]:
    """Outcome, seconds, and peak memory in MB above what was in use before.

    On a GPU memory is what torch's allocator handed out. Elsewhere it is the growth of the process' resident
    memory, as Linux counts it: freed memory is first given back, then the high-water mark is reset. The mark
    holds everything, workspaces of libraries included. None where the system has no such mark.
    """
    before = _reset_peak(device)
    started = time.perf_counter()
    outcome = run()
    _wait_for(device)
    seconds = time.perf_counter() - started
    return outcome, seconds, _peak_above(before, device)


def _reset_peak(device: torch.device) -> float | None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    if not sys.platform.startswith("linux"):
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def _peak_above(before: float | None, device: torch.device) -> float | None:
    if before is None:
        return None
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _status("VmHWM")
    return round(max(0.0, peak - before), 1)


def _status(key: str) -> float:
    """A value of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))
