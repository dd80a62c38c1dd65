"""Whether what a process holds grows from job to job, from samples alone.

Two rules. What is counted one by one (descriptors, threads, handlers, models, ...) may not grow at all: the lowest
number of the last round of jobs may not be above the lowest of the first round after the warm-up. Memory and the
number of small objects move a little all the time; of them the slope is asked for, by Theil and Sen: the median of
the slopes between all pairs of samples, which single outliers do not move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

from tests.soak.samples import History, Sample

# Largest growth per job that counts as flat, in MB or objects. docs/soak.md says where the numbers come from.
TOLERATED = {"resident memory": 0.05, "Python objects": 2.0, "memory blocks": 50.0, "GPU memory reserved": 0.05}
SHOWN_TYPES = 8


@dataclass(frozen=True)
class Row:
    """What became of one value.

    Attributes:
        first, last: lowest value of the first round after the warm-up, and of the last round.
        slope: growth per job by Theil and Sen.
        tolerated: largest slope that counts as flat; None where nothing may be added.
        grows: the verdict.
    """

    name: str
    first: float
    last: float
    slope: float
    tolerated: float | None
    grows: bool


def judge(history: History, per_round: int) -> list[Row]:
    """One row per value.

    Args:
        per_round: jobs until every kind has had its turn.

    Raises:
        ValueError: there are not more jobs after the warm-up than one round has.
    """
    values = history.values()
    jobs = len(next(iter(values.values()), ()))
    if jobs <= per_round:
        raise ValueError(f"{jobs} jobs after the warm-up are too few to judge by: a round has {per_round}")
    return [_row(name, of_name, per_round) for name, of_name in values.items()]


def _row(name: str, values: np.ndarray, per_round: int) -> Row:
    first, last = float(values[:per_round].min()), float(values[-per_round:].min())
    slope = float(theilslopes(values).slope)
    tolerated = TOLERATED.get(name)
    return Row(name, first, last, slope, tolerated, last > first if tolerated is None else slope > tolerated)


def grown_types(warm: Sample, last: Sample) -> list[str]:
    """The types of which there are more objects now, most first."""
    grown = Counter(last.types)
    grown.subtract(warm.types)
    return [f"{name} +{count}" for name, count in grown.most_common(SHOWN_TYPES) if count > 0]


def new_descriptors(warm: Sample, last: Sample) -> list[str]:
    """Where descriptors lead to that are open now and were not."""
    return sorted((last.descriptors - warm.descriptors).elements())


def changed_settings(warm: Sample, last: Sample) -> list[str]:
    """Settings of the process that are not what they were."""
    before, now = warm.settings, last.settings
    return [f"{name}: {before.get(name, 'not there')} became {now.get(name, 'not there')}"
            for name in sorted({*before, *now}) if before.get(name) != now.get(name)]


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [f"{'':22}{'first round':>14}{'last round':>14}{'per job':>12}{'tolerated':>12}"]
    for row in rows:
        unit = "MB" if "memory" in row.name and "blocks" not in row.name else ""
        form = "{:,.1f} MB" if unit else "{:,.0f}"
        tolerated = "none" if row.tolerated is None else f"{row.tolerated:g}"
        lines.append(f"{row.name:22}{form.format(row.first):>14}{form.format(row.last):>14}{row.slope:>12.4f}"
                     f"{tolerated:>12}{'  GROWS' if row.grows else ''}")
    return "\n".join(lines)
