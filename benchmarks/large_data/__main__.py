"""Measures stages at sizes: `python -m benchmarks.large_data --sizes=0.1,1 [--stages=load,trie] [--report=PATH]`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.large_data.generate import Scale, write_atomic, write_raw
from benchmarks.large_data.report import markdown, table
from benchmarks.large_data.stages import NAME, STAGES
from recbole_soft.artifacts import read_json, write_json, write_text
from recbole_soft.errors import EXIT_CODE, UserError

POLL_SECONDS = 0.2
OF_RAW = ("prepare", "load all")


def main(words: Sequence[str] | None = None) -> int:
    """Measures what was asked for, adds it to the JSON file, and writes the report; returns the exit code."""
    options = _parser().parse_args(words)
    try:
        found = read_json(options.json) if options.json.is_file() else []
        for factor in options.sizes:
            for stage in options.stages:
                row = _measured(stage, factor, options)
                found = [old for old in found if (old["stage"], old["size"]) != (stage, factor)] + [row]
                write_json(options.json, found)
        order = list(STAGES)
        found.sort(key=lambda row: (order.index(row["stage"]), row["size"]))
        sys.stdout.write(table(found) + "\n")
        if options.report:
            write_text(options.report, markdown(found))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_data", description=__doc__)
    parser.add_argument("--sizes", type=_sizes, default="0.1,0.3,1", help="1 is Kindle; default: 0.1,0.3,1")
    parser.add_argument("--stages", type=_stages, default=",".join(STAGES), help=(
        "names with a comma inside stand for themselves: " + "; ".join(STAGES)))
    parser.add_argument("--folder", type=Path, default=Path("saved/large_data"), help="where data is made and kept")
    parser.add_argument("--json", type=Path, default=Path("saved/large_data/measured.json"),
                        help="results are added to this file")
    parser.add_argument("--report", type=Path, metavar="PATH", help="also write everything measured so far as Markdown")
    parser.add_argument("--most_gb", type=float, default=16, help="a stage that takes more is ended; default: 16")
    parser.add_argument("--most_seconds", type=float, default=1800, help="the same of seconds; default: 1800")
    return parser


def _sizes(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part]


def _stages(text: str) -> list[str]:
    """Names out of a list with commas, in which names may have commas themselves."""
    left, found = text, []
    while left := left.lstrip(", "):
        name = next((name for name in sorted(STAGES, key=len, reverse=True) if left.startswith(name)), None)
        if name is None:
            raise argparse.ArgumentTypeError(f"there is no stage '{left}'; known: {'; '.join(STAGES)}")
        found.append(name)
        left = left[len(name):]
    return found


def _measured(stage: str, factor: float, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.folder / f"{factor:g}"
    # Made here, so that a stage's process never holds what generating took.
    if stage.startswith(OF_RAW):
        write_raw(folder, Scale(factor))
    elif stage.startswith(("load", "windows")):
        write_atomic(folder / "atomic", NAME, Scale(factor))
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {stage}, size {factor:g} ...\n")
    load = os.getloadavg()[0]
    words = [sys.executable, "-m", "benchmarks.large_data.stages", stage, str(folder), str(factor)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own module
    outcome = _outcome(process, options)
    row = {"stage": stage, "size": factor, "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "load": load, **outcome}
    sys.stderr.write(f"    {json.dumps(outcome)}\n")
    return row


def _outcome(process: subprocess.Popen, options: argparse.Namespace) -> dict[str, Any]:
    """What the stage printed, or why it did not."""
    started = time.monotonic()
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        reason = ""
        if _resident_gb(process.pid) > options.most_gb:
            reason = f"ended at {options.most_gb:g} GB"
        elif time.monotonic() - started > options.most_seconds:
            reason = f"ended after {options.most_seconds:g} s"
        if reason:
            process.kill()
            process.wait()
            return {"failed": reason}
    printed = process.stdout.read().strip().splitlines()
    if process.returncode:
        return {"failed": f"exit code {process.returncode}"}
    return json.loads(printed[-1])


def _resident_gb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (OSError, IndexError):
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
