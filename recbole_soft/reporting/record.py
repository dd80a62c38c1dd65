"""The record of a run: one JSON with everything a result depends on. Tables are made from it alone."""

from __future__ import annotations

import csv
import io
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import write_json, write_text
from recbole_soft.parallel.group import is_first

PACKAGES = ("recbole-soft", "recbole", "torch", "transformers", "peft", "bitsandbytes", "numpy", "pandas", "scipy")
RECORD_FILE = "run.json"
SCHEMA_VERSION = 1


def versions() -> dict[str, str | None]:
    """Installed versions of what decides numbers, and the interpreter's."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def commit(folder: Path) -> str | None:
    """Commit of the source tree, `+` appended when files differ from it; None outside a checkout."""
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"platform": platform.platform(), "cores": torch.get_num_threads(), "gpu": gpu}


def peak_memory() -> dict[str, float]:
    """Highest memory of this process so far, in MB: resident, and on the GPU."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return {"resident_mb": round(resident, 1), "gpu_mb": round(gpu, 1)}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: not-a-number becomes null, unknown objects their text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Writes run.json (the first process does) and returns its path."""
    path = folder / RECORD_FILE
    if is_first():
        write_json(path, plain({"schema": SCHEMA_VERSION, "written": datetime.now(UTC).isoformat(), **record}))
    return path


def write_table(folder: Path, table: str) -> None:
    """Writes table.txt, as the first process."""
    if is_first():
        write_text(folder / "table.txt", table + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes dictionaries as csv; the columns are the union of their keys in order of appearance.

    As all of a run's files, by the first process.
    """
    if not is_first():
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
