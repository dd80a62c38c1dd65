"""`python run_recbole_soft.py report --runs=saved/A,saved/B --out=report.html`: one HTML page about finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_soft.artifacts import write_text
from recbole_soft.errors import SettingError, nearest
from recbole_soft.reporting.comparison import SHOWN, compare
from recbole_soft.reporting.html.page import report_page
from recbole_soft.reporting.records import read_records

OPTIONS = ("runs", "from", "out", "metrics", "baseline", "title")
EXAMPLE = "report --from=saved --out=report.html"
HELP = f"""\
One self-contained HTML page about finished runs: comparison with statistics, curves, costs, answers, examples.

usage:
  python run_recbole_soft.py report --runs=saved/A,saved/B [--out=report.html]
  python run_recbole_soft.py report --from=saved           [--out=report.html]

  --runs      run folders, separated by commas
  --from      folder below which all finished runs are taken
  --out       file to write (default: report.html)
  --metrics   metrics of the comparison (default: {','.join(SHOWN)})
  --baseline  method that the others are tested against (default: the first SFT row of each data set)
  --title     heading of the page

Runs on one data set must have the same protocol and test windows; seeds of the same settings become one row.
"""


def main(argv: Sequence[str]) -> int:
    """Writes the page and says where; returns the exit code."""
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(HELP)
        return 0
    values = _options(argv)
    places = [Path(word) for key in ("runs", "from") for word in values.get(key, "").split(",") if word]
    if not places:
        raise SettingError("neither --runs nor --from is given", "command line", EXAMPLE)
    out = Path(values.get("out", "report.html"))
    if out.is_dir():
        raise SettingError(f"--out={out} is a folder", "command line", f"--out={out / 'report.html'}")
    metrics = [name for name in values.get("metrics", "").split(",") if name] or SHOWN
    comparison = compare(read_records(places), metrics, values.get("baseline"))
    page = report_page(comparison, *([values["title"]] if "title" in values else []))
    write_text(out, page)
    sys.stdout.write(f"{out} ({len(page.encode()) / 2**20:.1f} MB)\n")
    return 0


def _options(argv: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for word in argv:
        key, is_set, value = word.removeprefix("--").partition("=")
        if not is_set or key not in OPTIONS:
            raise SettingError(f"'{word}' is not an option of report", "command line",
                               f"{nearest(key, OPTIONS)} For example: {EXAMPLE}")
        if key in values:
            raise SettingError(f"--{key} is given twice", "command line", "give it once, with commas")
        values[key] = value
    return values
