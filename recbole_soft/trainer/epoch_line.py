"""What the log and TensorBoard have of every epoch."""

from __future__ import annotations

from typing import Any

SHOWN_FIGURES = ("tau", "distance", "temperature", "chosen_logp", "rejected_logp", "preference_accuracy")


def epoch_line(row: dict[str, Any], valid_metric: str) -> str:
    """Losses by part, what the stage logged, validation, tokens per second, seconds of training and validation."""
    losses = ", ".join(f"{name[5:]} {value:.4f}" for name, value in row.items() if name.startswith("loss_"))
    extra = "".join(f", {name} {row[name]:.4f}" for name in SHOWN_FIGURES if name in row)
    valid = row.get(f"valid_{valid_metric}", float("nan"))
    return (f"{row['stage']} epoch {row['epoch'] + 1}: loss {losses}{extra}; valid {valid_metric} {valid:.4f}; "
            f"{row['tokens_per_second']:,.0f} tokens/s, {row['train_seconds']:.1f} s + {row['valid_seconds']:.1f} s")


def log_scalars(board, row: dict[str, Any], names: list[str]) -> None:
    """Hands the numbers among some columns of an epoch's row to TensorBoard."""
    for name in names:
        if isinstance(row[name], float):
            board.add_scalar(f"{row['stage']}/{name}", row[name], row["epoch"])
