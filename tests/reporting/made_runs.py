"""Run folders as a run leaves them, without a run: records with made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_soft.artifacts import write_lines
from recbole_soft.evaluation.windows import rank_rows
from recbole_soft.reporting.record import write_record, write_rows
from recbole_soft.statistics.metrics import METRICS

CUTOFFS = (1, 5, 10, 20)


def write_run(folder: Path, model: str = "SASRec", ranks: dict[str, Sequence[int]] | None = None, seed: int = 42,
              dataset: str = "toy", config: dict[str, Any] | None = None, columns: dict[str, list] | None = None,
              examples: dict[str, list[dict]] | None = None, **changes: Any) -> Path:
    """A run folder.

    Args:
        ranks: by stage; stage `test` is that of models without stages.
        columns: of the ranks files, beside window and rank.
        examples: lines of examples by stage, or `distilled`.
        changes: parts of the record to replace.
    """
    base, _, strategy = model.partition("_")
    ranks = {stage: np.asarray(values) for stage, values in (ranks or {"test": [1, 2, 30, 400]}).items()}
    results = []
    for stage, values in ranks.items():
        write_rows(folder / f"ranks_{stage}.csv", rank_rows(values, columns or {}))
        label = model if stage == "test" else f"{base} {strategy if stage != 'sft' else 'SFT'}"
        results.append({"label": label, "stage": stage, "windows": len(values), "ranks_file": f"ranks_{stage}.csv",
                        "metrics": _metrics(values)})
    for stage, lines in (examples or {}).items():
        write_lines(folder / f"examples_{stage}.jsonl", lines)
        for result in results:
            if result["stage"] == stage:
                result["examples_file"] = f"examples_{stage}.jsonl"
    stages = {stage: {"label": stage, "folder": "x", "reused": False, "key": "k", "seconds": 2.0, "valid_score": 0.1}
              for stage in ranks if stage != "test"}
    curves = [{"stage": "train" if stage == "test" else stage, "epoch": epoch, "loss_total": 2.0 / (epoch + 1),
               "valid_hit@10": 0.1 * epoch, "train_seconds": 1.0, "valid_seconds": 0.5}
              for stage in ranks for epoch in range(2)]
    strategies = {"base_model": base, "strategy": strategy, "llm": "tiny"} if strategy else {}
    record = {
        "model": model, "dataset": dataset, "seed": seed, "user_settings": {},
        "config": {"seed": seed, "valid_metric": "Hit@10", "model": model, **strategies, **(config or {})},
        "versions": {"python": "3.11"}, "commit": "abc", "machine": {"platform": "made", "cores": 2, "gpu": None},
        "data": {"users": 3, "items": 500, "train_windows": 9, "valid_windows": 2, "catalogue": "c", "train": "t",
                 "valid": "v", "test": "w", "test_windows": len(next(iter(ranks.values())))},
        "protocol": {"mask_history": "full"}, "protocol_fingerprint": "p", "stages": stages, "notes": {},
        "language_model": {"parameters": 1000, "base_fingerprint": "f"}, "curves": curves, "results": results,
        "best_valid_score": 0.1, "seconds": {"training": 3.0}, "peak_memory": {"resident_mb": 100.0, "gpu_mb": 0.0},
    }
    for key, value in changes.items():
        record[key] = value
    write_record(folder, record)
    return folder


def _metrics(ranks: np.ndarray) -> dict[str, dict[str, float]]:
    """Values as a run reports them, with intervals of no width: real ones take their time."""
    rows = {f"{kind}@{k}": float(METRICS[kind](ranks, k).mean()) for kind in METRICS for k in CUTOFFS}
    return {name: {"value": value, "low": value, "high": value} for name, value in rows.items()}


def example(window: int = 0, title: str = "A film", rank: int = 3) -> dict[str, Any]:
    """A line of `examples_STAGE.jsonl` in which all texts are `title`."""
    return {"window": window, "rank": rank, "target": title, "target_distance": 1.5, "history": [title, "Another"],
            "answers": [f'"{title}"'], "prompt": f"Recommend one: {title}",
            "nearest": [{"title": title, "distance": 0.5, "is_candidate": False},
                        {"title": "Another", "distance": 0.7, "is_candidate": True}]}


def changed(folder: Path, **changes: Any) -> Path:
    """The run with parts of its record replaced."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    write_record(folder, {**record, **changes})
    return folder
