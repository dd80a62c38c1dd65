"""A comparison as text: terminal, Markdown, csv, LaTeX (booktabs). Shows what `comparison.py` worked out, no more."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_soft.reporting.comparison import Block, Cell, Comparison, MethodRow
from recbole_soft.reporting.table import framed

FORMATS: dict[str, Callable[[Comparison], str]] = {}
_LATEX = str.maketrans({"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
                        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
                        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
                        "[": "{[}"})  # behind a line's end it would begin an argument
_MD = str.maketrans({"|": r"\|", "*": r"\*", "<": "&lt;"})

_TEX_MARKS = {"*": r"\ast ", "†": r"\dagger "}
MOST_WINDOWS = 10**9


@dataclass(frozen=True)
class _Style:
    """How a format writes a value: `place` wraps it by its place (1, 2 or 0), `marks` gets `*` and `†`."""

    place: Callable[[str, int], str]
    marks: Callable[[str], str]
    spread: str
    text: Callable[[str], str] = str


# Marks have their own places, so that numbers stay below each other.
_PLAIN = _Style(lambda text, place: text + {1: "¹", 2: "²"}.get(place, " "), "{:<2}".format, "±")
_MARKDOWN = _Style(lambda text, place: {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(place, text),
                   lambda marks: marks.replace("*", r"\*"), " ± ", lambda text: text.translate(_MD))
_TEX = _Style(lambda text, place: {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(place, text),
              lambda marks: "".join(("$^{", *(_TEX_MARKS[mark] for mark in marks), "}$")) if marks else "",
              r"\,$\pm$\,", lambda text: text.translate(_LATEX))


def terminal(comparison: Comparison, details: bool = False) -> str:
    """One framed table per data set; `details` adds intervals and tests, one line per method and metric."""
    parts = []
    for block in comparison.blocks:
        lines = [block.dataset, framed(_table(block, _PLAIN)), *_captions(block, "¹ best, ² second")]
        if details:
            lines += ["", framed(_details(block, _PLAIN)), *_detail_captions(block)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def markdown(comparison: Comparison) -> str:
    """A section per data set: the table, what its marks mean, and a table of intervals and tests."""
    parts = []
    for block in comparison.blocks:
        tables = [_pipes(_table(block, _MARKDOWN)), _pipes(_details(block, _MARKDOWN))]
        captions = [[f"{_MARKDOWN.text(line)}  " for line in lines] for lines in (
            _captions(block, "bold: best, underlined: second"), _detail_captions(block))]
        parts.append("\n".join([f"## {block.dataset}", "", tables[0], "", *captions[0], "",
                                f"### {block.dataset}: intervals and tests", "", tables[1], "", *captions[1]]))
    return "\n\n".join(parts) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """One line per data set, method and metric, with every number of the comparison in full precision."""
    text = io.StringIO()
    rows = [_flat(block, row, name) for block in comparison.blocks for row in block.rows for name in block.metrics]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def latex(comparison: Comparison) -> str:
    r"""A `table` with booktabs rules, one group of rows per data set; needs \usepackage{booktabs}."""
    metrics = list(dict.fromkeys(name for block in comparison.blocks for name in block.metrics))
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering",
             rf"\begin{{tabular}}{{lr{'r' * (len(metrics) + 1)}}}", r"\toprule",
             " & ".join(["method", "seeds", *metrics, "gain"]) + r" \\"]
    for block in comparison.blocks:
        group = f"{_TEX.text(block.dataset)}, {block.windows:,} test windows"
        lines += [r"\midrule", rf"\multicolumn{{{len(metrics) + 3}}}{{l}}{{\emph{{{group}}}}} \\"]
        lines += [" & ".join(cells) + r" \\" for cells in _table(block, _TEX)[1:]]
    captions = dict.fromkeys(line for block in comparison.blocks for line in _captions(
        block, "bold: best, underlined: second"))
    caption = " ".join(_TEX.text(line) for line in captions).replace("†", r"$^\dagger$").replace("±", r"$\pm$")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]) + "\n"


FORMATS.update({"txt": terminal, "md": markdown, "csv": comma_separated, "tex": latex})


def _table(block: Block, style: _Style) -> list[list[str]]:
    """Rows of the main table, the header first."""
    rows = [["method", "seeds", *block.metrics, "gain"]]
    for row in block.rows:
        rows.append([style.text(row.method.label), str(len(row.method.seeds)),
                     *(_cell(row.cells[name], style) for name in block.metrics),
                     style.text(_percent(row.gain))])
    return rows


def _cell(cell: Cell, style: _Style) -> str:
    spread = "" if cell.spread is None else f"{style.spread}{cell.spread:.4f}"
    marks = "*" * cell.is_significant + "†" * cell.holds_over_seeds
    return style.place(f"{cell.mean:.4f}", cell.place) + spread + style.marks(marks)


def _captions(block: Block, places: str) -> list[str]:
    users = "" if block.users is None else f" of {block.users:,} users"
    lines = [f"{block.windows:,} test windows{users}, full ranking of {block.items:,} items "
             f"(mask_history: {block.mask_history}). Means over seeds ± standard deviation; {places}."]
    if block.baseline is not None:
        lines.append(f"* differs from {block.baseline} on these windows (paired test, p < 0.05 after Holm's "
                     "correction); † also over seeds (Welch).")
    if any(row.gain is not None for row in block.rows):
        lines.append("gain: over the best other fine-tuning strategy of the same model, mean over the metrics shown.")
    return lines + [f"{note[0].upper()}{note[1:]}." for note in block.notes]


def _details(block: Block, style: _Style) -> list[list[str]]:
    """Rows of the table of intervals and tests, the header first."""
    rows = [["method", "metric", "mean", "95 % interval", "gain", "difference", "its interval", "p", "p Holm",
             "p seeds", "d", "windows needed"]]
    for row in block.rows:
        for name in block.metrics:
            cell = row.cells[name]
            rows.append([style.text(row.method.label), name, f"{cell.mean:.4f}", f"[{cell.low:.4f}, {cell.high:.4f}]",
                         _percent(cell.gain), *_test_cells(cell, block.windows)])
    return rows


def _test_cells(cell: Cell, windows: int) -> list[str]:
    if cell.test is None:
        return [""] * 7
    test, needed = cell.test, cell.windows_needed(windows)
    return [f"{test.difference:+.4f}", f"[{test.low:+.4f}, {test.high:+.4f}]", _p(test.p_value), _p(cell.p_holm),
            _p(cell.p_seeds), f"{test.effect:+.3f}", _count(needed)]


def _detail_captions(block: Block) -> list[str]:
    if block.baseline is None:
        return []
    tests = sorted({cell.test.test for row in block.rows for cell in row.cells.values() if cell.test})
    return [f"difference: to {block.baseline}, with a bootstrap interval; p: {', '.join(tests)}; p seeds: Welch's test "
            "over seeds, not corrected; d: standardised difference (d_z); windows needed: to find a true difference of "
            "this size at 5 % with power 80 %."]


def _flat(block: Block, row: MethodRow, name: str) -> dict[str, Any]:
    cell, test = row.cells[name], row.cells[name].test
    return {
        "dataset": block.dataset, "method": row.method.label, "metric": name,
        "seeds": " ".join(map(str, row.method.seeds)), "mean": cell.mean, "spread": cell.spread, "low": cell.low,
        "high": cell.high, "place": cell.place or None, "gain": cell.gain, "gain_over": row.gain_over.get(name),
        "baseline": block.baseline if test else None, "difference": test and test.difference,
        "difference_low": test and test.low, "difference_high": test and test.high, "p": test and test.p_value,
        "test": test and test.test, "p_holm": _number(cell.p_holm), "p_seeds": _number(cell.p_seeds),
        "p_seeds_holm": _number(cell.p_seeds_holm), "effect": test and test.effect, "wins": test and test.wins,
        "losses": test and test.losses, "windows_needed": test and cell.windows_needed(block.windows),
        "windows": block.windows, "users": block.users,
        "by_seed": " ".join(f"{value:.6f}" for value in cell.by_seed),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _p(value: float) -> str:
    return "" if math.isnan(value) else ("<0.001" if value < 0.001 else f"{value:.3f}")


def _count(windows: float) -> str:
    """Differences near zero need more windows than there will ever be."""
    if math.isinf(windows):
        return "-"
    return f"{windows:,.0f}" if windows < MOST_WINDOWS else f"over {MOST_WINDOWS:,}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"


def _pipes(rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
