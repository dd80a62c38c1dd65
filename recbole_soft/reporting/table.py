"""The result table of a run, printed from its record and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("HR@5", "HR@20", "NDCG@5", "NDCG@20")


def result_table(record: Mapping[str, Any], shown: Sequence[str] = SHOWN) -> str:
    """One row per stage with 95 % intervals; the gain is that of the last row over the first.

    Args:
        record: the content of run.json.
        shown: metrics; those that the record lacks are left out.
    """
    results = record["results"]
    if not results:
        return (f"{record['model']} on {record['dataset']}: not tested; best validation score "
                f"{record['best_valid_score']:.4f} ({record['config']['valid_metric']})")
    metrics = [name for name in shown if name in results[0]["metrics"]] or list(results[0]["metrics"])
    rows = [["method", *metrics]]
    rows += [[row["label"], *(_cell(row["metrics"][name]) for name in metrics)] for row in results]
    if len(results) > 1:
        first, last = results[0]["metrics"], results[-1]["metrics"]
        rows.append(["gain", *(_gain(first[name]["value"], last[name]["value"]) for name in metrics)])
    note = record.get("notes", {}).get("caption")
    return framed(rows) + "\n" + _caption(record) + (f"\n{note}" if note else "")


def _cell(metric: Mapping[str, float]) -> str:
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"


def _gain(before: float, after: float) -> str:
    return f"{(after - before) / before:+.1%}" if before else "n/a"


def _caption(record: Mapping[str, Any]) -> str:
    data = record["data"]
    return (f"{record['dataset']}: {data['test_windows']} test windows, full ranking of {data['items']} items "
            f"(mask_history: {record['protocol']['mask_history']}); brackets: 95 % interval over test windows")


def framed(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a table between rules, the header first: first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                   zip(row[1:], widths[1:], strict=True))]) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])
