"""Measurements as a table, and as the Markdown page docs/large-data.md; how time and memory grow."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from recbole_soft.reporting.record import machine

LIMIT_MB = 8000  # of resident memory, issue 6
SMALLEST_SECONDS, SMALLEST_MB = 0.5, 50
LIBRARIES = ("recbole", "pandas", "polars", "numpy", "torch")
ABOUT = Path(__file__).parent / "about.md"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per stage and size."""
    lines = [("stage", "size", "CPU seconds", "seconds", "peak MB", "figures")]
    lines += [(row["stage"], f"{row['size']:g}", *_values(row), _figures(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of the logarithms: 1 for what grows in proportion; None of fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The page: a table of stages by sizes for seconds and one for memory, then what was counted."""
    sizes = sorted({row["size"] for row in rows})
    stages = [(name, list(found)) for name, found in groupby(rows, key=lambda row: row["stage"])]
    failed = [row for row in rows if "failed" in row]
    parts = [
        ABOUT.read_text(encoding="utf-8").strip(),
        "## Seconds of CPU", _grid(stages, sizes, "cpu_seconds"),
        "## Seconds that passed, beside other work", _grid(stages, sizes, "seconds", with_growth=False),
        "## Peak of resident memory, MB", _grid(stages, sizes, "peak_mb"),
        _verdict(rows),
    ]
    if failed:
        parts += ["Ended before their end: " + "; ".join(
            f"{row['stage']} at size {row['size']:g} ({row['failed']})" for row in failed) + "."]
    parts += ["## What was counted", "\n".join(f"- {row['stage']}, size {row['size']:g}: {_figures(row)}"
                                               for row in rows if row.get("figures")),
              "## Where and when", _provenance(rows)]
    return "\n\n".join(parts) + "\n"


def _grid(
    stages: Sequence[tuple[str, list[dict[str, Any]]]], sizes: Sequence[float], key: str, with_growth: bool = True
) -> str:
    header = ["stage", *(f"{size:g}" for size in sizes), *(["exponent"] if with_growth else [])]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name, found in stages:
        by_size = {row["size"]: row for row in found}
        cells = [_cell(by_size.get(size), key) for size in sizes]
        lines.append([name, *cells, *([_growth(found, key)] if with_growth else [])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(row: dict[str, Any] | None, key: str) -> str:
    if row is None or ("failed" not in row and key not in row):
        return ""
    if "failed" in row:
        return row["failed"]
    return f"{row[key]:,.0f}" if key == "peak_mb" or row[key] >= 100 else f"{row[key]:.2g}" if row[key] < 10 \
        else f"{row[key]:.1f}"


def _growth(found: Sequence[dict[str, Any]], key: str) -> str:
    """Of memory, what is above the least before any work; times that are too short tell of the start, not of data."""
    known = [row for row in found if key in row]
    if key == "peak_mb":
        empty = min((row["before_mb"] for row in known), default=0)
        pairs = [(row["size"], row["peak_mb"] - empty) for row in known if row["peak_mb"] - empty > SMALLEST_MB]
    else:
        pairs = [(row["size"], row[key]) for row in known if row[key] >= SMALLEST_SECONDS]
    slope = exponent(*zip(*pairs, strict=True)) if pairs else None
    return "" if slope is None else f"{slope:.2f}"


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    ours = [row for row in rows if "RecBole" not in row["stage"] and "failed" not in row]
    worst = max(ours, key=lambda row: row["peak_mb"])
    over = [f"{row['stage']} at size {row['size']:g} ({row['peak_mb']:,.0f} MB)" for row in ours
            if row["peak_mb"] > LIMIT_MB]
    text = f"The highest peak of our own stages is {worst['peak_mb']:,.0f} MB "
    text += f"({worst['stage']}, size {worst['size']:g}). "
    return text + (f"Over {LIMIT_MB:,} MB: {'; '.join(over)}." if over else f"None is over {LIMIT_MB:,} MB.")


def _values(row: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return row["failed"], "", ""
    return f"{row.get('cpu_seconds', float('nan')):.2f}", f"{row['seconds']:.2f}", f"{row['peak_mb']:,.0f}"


def _figures(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
                     for name, value in row.get("figures", {}).items())


def _provenance(rows: Sequence[dict[str, Any]]) -> str:
    found = machine()
    words = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  nothing of a user's
    loads = [row["load"] for row in rows]
    lines = [
        f"- Measured {min(row['when'] for row in rows)} to {max(row['when'] for row in rows)} UTC; "
        f"commit {commit.stdout.strip() or 'unknown'}.",
        f"- Machine: {', '.join(f'{key} {value}' for key, value in found.items())}; {os.cpu_count()} logical CPUs; "
        f"{_threads()}.",
        f"- Load average before a stage {min(loads):.1f} to {max(loads):.1f} on these CPUs: with other work beside, "
        "seconds that pass say little, and those of CPU are more than on an idle machine.",
        "- " + ", ".join(f"{name} {_version(name)}" for name in LIBRARIES) + ".",
    ]
    return "\n".join(lines)


def _threads() -> str:
    names = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")
    return ", ".join(f"{name}={os.environ.get(name, 'not set')}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
