"""What a search shows: its plan, a line per trial, the table, and the command that gives the best result again."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from recbole_soft.reporting.record import write_rows
from recbole_soft.tuning.space import SearchSpace
from recbole_soft.tuning.study import DONE, FAILED, Outcome

TRIALS_FILE, COMMAND_FILE = "trials.csv", "best_command.txt"
_SHOWN_DIGITS = 4


def plan(title: str, space: SearchSpace, left_out: Mapping[str, str], trials: int, metric: str, folder: Path) -> str:
    """What will be searched, and what not and why."""
    lines = [f"search: {title}, {trials} trials (sampler {space.sampler}, pruner {space.pruner}, {space.source})",
             f"judged by {metric} on the validation windows; the test windows are not read"]
    lines += [f"  searched: {parameter.describe()}" for parameter in space.parameters]
    lines += [f"  not searched: {name} ({reason})" for name, reason in left_out.items()]
    return "\n".join([*lines, f"kept in {folder}; the same command goes on with a search that was interrupted"])


def began(number: int, trials: int, parameters: Mapping[str, str]) -> str:
    """First line of a trial."""
    return f"trial {number} of {trials}: {_brief(parameters)}"


def ended(outcome: Outcome, best: Outcome | None, metric: str, seconds_left: float | None) -> str:
    """Second line of a trial."""
    if outcome.state == FAILED:
        result = f"failed: {outcome.notes['error']}"
    else:
        result = f"{metric} {outcome.score:.4f}" + ("" if outcome.state == DONE else
                                                    f", cut short after epoch {outcome.epochs}")
        result += f", as in trial {outcome.notes['same_as']}" if "same_as" in outcome.notes else ""
    so_far = f"; best so far {best.score:.4f} (trial {best.number})" if best else ""
    left = f"; about {duration(seconds_left)} left" if seconds_left else ""
    return f"  {result}; {duration(outcome.notes.get('seconds', 0.0))}{so_far}{left}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def trial_table(outcomes: Sequence[Outcome], metric: str, is_larger_better: bool = True) -> str:
    """All trials, best first; those without a score last."""
    sign = -1 if is_larger_better else 1
    order = {DONE: 0, FAILED: 2}
    ranked = sorted(outcomes, key=lambda outcome: (
        order.get(outcome.state, 1), sign * (outcome.score or 0.0), outcome.number))
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.parameters))
    rows = [["trial", metric, *names, "epochs", "time", "state"]]
    rows += [[str(outcome.number), "" if outcome.score is None else f"{outcome.score:.4f}",
              *(_short(outcome.parameters.get(name, "")) for name in names), str(outcome.epochs),
              duration(outcome.notes.get("seconds", 0.0)), outcome.state] for outcome in ranked]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def caution(outcomes: Sequence[Outcome], best: Outcome, windows: int) -> str:
    """How much of a difference between trials is chance: the standard error of a share of the validation windows.

    With two hits and two misses added (Agresti and Coull), as no hits at all do not mean that there is no error. For
    other metrics between 0 and 1, such as NDCG, it is an upper bound.
    """
    share = (best.score * windows + 2) / (windows + 4)
    error = math.sqrt(max(0.0, share * (1 - share)) / (windows + 4))
    others = [outcome.score for outcome in outcomes if outcome.state == DONE and outcome.number != best.number]
    close = sum(abs(score - best.score) <= error for score in others)
    if others and set(others) == {best.score}:
        return (f"all trials that ran to their end have the same score on {windows} validation windows: this search "
                "decided nothing (more windows or epochs may)")
    return (f"standard error of the best score on {windows} validation windows: {error:.4f}; "
            f"other trials within it: {close}")


def write_trials(folder: Path, outcomes: Sequence[Outcome], metric: str) -> Path:
    """All trials as csv, in the order of the search; parameters exactly."""
    path = folder / TRIALS_FILE
    write_rows(path, [{"trial": outcome.number, "state": outcome.state, metric: outcome.score, **outcome.parameters,
                       "epochs": outcome.epochs, **outcome.notes} for outcome in outcomes])
    return path


def command(words: Sequence[str], parameters: Mapping[str, str]) -> str:
    """The command that trains with the given parameters, and tests.

    Args:
        words: the user's own `--key=value` words, without those of the search.
    """
    program = ["recbole-soft"] if Path(sys.argv[0]).name == "recbole-soft" else ["python", "run_recbole_soft.py"]
    return shlex.join([*program, *words, *(f"--{name}={text}" for name, text in parameters.items())])


def _brief(parameters: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {_short(text)}" for name, text in parameters.items())


def _short(text: str) -> str:
    """A number in few digits; anything else as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return text if value.is_integer() and "." not in text else f"{value:.{_SHOWN_DIGITS}g}"
