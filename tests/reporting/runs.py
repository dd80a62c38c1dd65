"""Run folders written by hand, with ranks that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_soft.artifacts import content_key, write_json
from recbole_soft.reporting.record import write_rows

PROTOCOL = {"window": "exact", "mask_history": "full", "train_sample": 64, "test_sample": "full"}


def write_run(folder: Path, model: str, ranks: Mapping[str, Sequence[int]], seed: int = 42, *,
              settings: Mapping[str, Any] | None = None, protocol: Mapping[str, Any] | None = None,
              data: Mapping[str, Any] | None = None, users: Sequence[str] | None = None, dataset: str = "toy") -> Path:
    """A run whose rows are `ranks`, by stage; further arguments replace or add entries of its record."""
    base, _, strategy = model.partition("_")
    config = {"seed": seed, "learning_rate": 0.001, "valid_metric": "Hit@10", "valid_metric_bigger": True,
              "checkpoint_dir": str(folder.parent), **(settings or {})}
    config["settings_key"] = content_key(settings=config)
    if strategy:
        config |= {"base_model": base, "strategy": strategy, "llm": "tiny", "alpha": 1.0, **(settings or {})}
    results = []
    for stage, of_stage in ranks.items():
        values = np.array(of_stage)
        label = f"{base} {stage.upper()}" if strategy else model
        results.append({"label": label, "stage": stage, "windows": len(values), "ranks_file": f"ranks_{stage}.csv",
                        "metrics": {f"HR@{k}": {"value": float((values <= k).mean()), "low": 0.0, "high": 1.0}
                                    for k in (5, 20)}})
        rows = [{"window": row, "rank": int(rank)} | ({"user": users[row]} if users else {})
                for row, rank in enumerate(values)]
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / f"ranks_{stage}.csv", rows)
    windows = len(next(iter(ranks.values())))
    write_json(folder / "run.json", {
        "schema": 1, "written": "2026-01-01T00:00:00+00:00", "model": model, "dataset": dataset, "seed": seed,
        "config": config, "user_settings": {}, "commit": "abc", "versions": {"torch": "2", "transformers": "5"},
        "data": {"catalogue": "c", "train": "t", "valid": "v", "test": "w", "items": 100, "test_windows": windows,
                 **(data or {})},
        "protocol": PROTOCOL | dict(protocol or {}), "protocol_fingerprint": "p",
        "stages": {stage: {"folder": str(folder / stage)} for stage in ranks} if strategy else {},
        "curves": [{"stage": stage, "epoch": 0, "loss_total": 1.25} for stage in ranks], "results": results,
        "best_valid_score": 0.5, "seconds": {"training": 3.0},
    })
    return folder


def some_ranks(seed: int, windows: int = 200, good: float = 0.0) -> list[int]:
    """Random ranks up to 100; `good` of them are 1."""
    rng = np.random.default_rng(seed)
    ranks = rng.integers(1, 101, windows)
    return np.where(rng.random(windows) < good, 1, ranks).tolist()
