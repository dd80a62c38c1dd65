"""The record of a run: one JSON with everything a result depends on. Tables are made from it alone."""

from __future__ import annotations

import csv
import io
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import write_json, write_text
from recbole_soft.config.yaml_files import PACKAGE_DIR, properties_root
from recbole_soft.data.sources import data_files

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


def commit() -> str | None:
    """Commit of the source tree, `+` appended when the package or its YAML differ from it; None outside a checkout."""
    def git(*arguments: str) -> str:
        # Fixed words, no shell; which git is on the path is the user's own business.
        done = subprocess.run(["git", "-C", str(PACKAGE_DIR), *arguments], capture_output=True, text=True,  # noqa: S603, S607
                              check=True)
        return done.stdout.strip()

    properties = str(properties_root())
    try:
        is_changed = bool(git("status", "--porcelain", "-uno", "--", ".", properties))
        return git("rev-parse", "--short=12", "HEAD") + "+" * is_changed
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


def about_data(config, data, splits) -> dict[str, Any]:
    """Which data a run is about: counts, files, and fingerprints of its windows."""
    train, valid, test = (loader.dataset for loader in splits)
    return {
        "counts": data.counts, "users": data.user_num - 1, "items": data.item_num - 1,
        "train_windows": len(train), "valid_windows": len(valid), "test_windows": len(test),
        "catalogue": data.catalog.fingerprint if data.catalog else None,
        "files": data_files(Path(data.dataset_path), config["dataset"]),
        "interactions": train.interactions_fingerprint(),
        "train": train.fingerprint(), "valid": valid.fingerprint(), "test": test.fingerprint(),
    }


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
    """Writes run.json and returns its path."""
    path = folder / RECORD_FILE
    write_json(path, plain({"schema": SCHEMA_VERSION, "written": datetime.now(UTC).isoformat(), **record}))
    return path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes dictionaries as csv; the columns are the union of their keys in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now
