"""Measurements as a table for people, and as JSON for programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Measurement, Spread
from recbole_soft.reporting.record import machine, versions

HEADER = ("stage", "ours s", "plain s", "ratio", "min..max", "target", "MB ours/plain", "equality")


def table(measurements: Sequence[Measurement]) -> str:
    """One line per stage; a ratio is the median of the rounds' plain / ours."""
    return _aligned([HEADER, *(_row(measurement) for measurement in measurements)])


def scaling_table(rows: Sequence[tuple[str, int, Measurement]]) -> str:
    """One line per axis and value; medians."""
    lines = [("varied", "value", "ours s", "plain s", "ratio")]
    lines += [(axis, str(value), f"{m.ours_seconds.median:.3f}", f"{m.plain_seconds.median:.3f}",
               f"{m.ratio.median:.1f}x") for axis, value, m in rows]
    return _aligned(lines)


def document(
    settings: dict[str, Any], measurements: Sequence[Measurement], scaling: Sequence[tuple[str, int, Measurement]],
    loads: Sequence[float],
) -> dict[str, Any]:
    """Everything as JSON can hold it.

    Args:
        loads: load average of the machine over one minute, before and after.
    """
    return {
        "settings": settings, "machine": machine() | {"cpus": os.cpu_count(), "load_before_and_after": list(loads)},
        "versions": versions(), "stages": [measurement.as_dict() for measurement in measurements],
        "scaling": [{"axis": axis, "value": value} | m.as_dict() for axis, value, m in scaling],
    }


def _row(found: Measurement) -> tuple[str, ...]:
    memory = "-"
    if found.memory_ratio is not None:
        memory = f"{found.ours_memory_mb:.0f}/{found.plain_memory_mb:.0f} ({found.memory_ratio:.1f}x)"
    wanted = [f"{value:g}x{unit}" for value, unit in ((found.target, ""), (found.memory_target, " MB"))
              if value is not None]
    return (
        found.name, _seconds(found.ours_seconds), _seconds(found.plain_seconds), f"{found.ratio.median:.1f}x",
        f"{found.ratio.low:.1f}..{found.ratio.high:.1f}", " ".join(wanted) or "-", memory,
        ", ".join(f"{name} {value:.3g}" for name, value in found.equality.items()),
    )


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.3f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)
