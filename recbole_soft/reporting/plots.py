"""Pictures of a run, drawn from its record and from nothing else. Needs matplotlib (`recbole_soft[plots]`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import make_folder
from recbole_soft.errors import UserError, nearest

INK, TAU, DISTANCE = "#333333", "#0b6e99", "#c4581b"


def plot_curriculum(record: Mapping[str, Any], path: Path) -> Path:
    """tau and d_t per epoch beside the training losses of all stages.

    Args:
        record: the content of run.json of a run with a SOFT stage.
        path: file to write; its ending decides the format (png, svg, pdf).

    Raises:
        UserError: matplotlib is missing, no stage of the run has a tau, or the file cannot be written in this format.
    """
    try:
        # Not pyplot: it keeps every figure until it is closed, and chooses a window system for the whole process.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib", remedy='pip install "recbole_soft[plots]"') from error
    rows = [row for row in record["curves"] if row.get("tau") is not None]
    if not rows:
        raise UserError("this run has no stage with a tau", where=str(record.get("model")),
                        remedy="plot a run of a SOFT strategy")
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    form = path.suffix.removeprefix(".")
    if form not in (known := figure.canvas.get_supported_filetypes()):
        raise UserError(f"there is no picture format '{form}'", where=str(path),
                        remedy=f"{nearest(form, known)} For example: --out=curriculum.png")
    left, right = figure.subplots(1, 2)
    _draw_schedule(left, rows)
    _draw_losses(right, record["curves"])
    figure.suptitle(f"{record['model']} on {record['dataset']}, seed {record['seed']}", color=INK, fontsize=11)
    make_folder(path.parent, "out")
    figure.savefig(path, dpi=150)
    return path


def _draw_schedule(axes, rows) -> None:
    epochs = [row["epoch"] + 1 for row in rows]
    axes.plot(epochs, [row["tau"] for row in rows], "o-", color=TAU, label="tau (weight of self-distilled set)")
    axes.set(xlabel="epoch of the SOFT stage", ylabel="tau", ylim=(-0.03, 1.05), xticks=epochs)
    if all(row.get("distance") is not None for row in rows):
        twin = axes.twinx()
        twin.plot(epochs, [row["distance"] for row in rows], "s--", color=DISTANCE, label="d_t")
        twin.set_ylabel("d_t: distance of answers to targets", color=DISTANCE)
    axes.set_title("curriculum", fontsize=10, color=INK)


def _draw_losses(axes, rows) -> None:
    labels = {"loss_sft": "true answers", "loss_sdft": "self-distilled answers"}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        for key, label in labels.items():
            points = [(row["epoch"] + 1, row[key]) for row in rows
                      if row["stage"] == stage and row.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=f"{stage} stage, {label}")
    longest = max(row["epoch"] for row in rows) + 1
    axes.set(xlabel="epoch", ylabel="mean token loss", xticks=range(1, longest + 1, max(1, longest // 10)))
    axes.set_title("training loss", fontsize=10, color=INK)
    axes.legend(fontsize=8, frameon=False)
