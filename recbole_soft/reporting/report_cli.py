"""`python run_recbole_soft.py report --runs=saved/A,saved/B --out=report.html`: one HTML page about finished runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from recbole_soft.config.words import listed, parse_options
from recbole_soft.errors import SettingError
from recbole_soft.reporting.comparison import SHOWN
from recbole_soft.reporting.html.page import write_page
from recbole_soft.reporting.methods import group_methods
from recbole_soft.reporting.records import read_records
from recbole_soft.reporting.summaries import SUMMARY_FILE, Summary, read_summary

OPTIONS = {"runs": "", "from": "", "datasets": "", "metrics": "", "baseline": "", "title": "Comparison of runs",
           "out": "report.html"}
EXAMPLE = "python run_recbole_soft.py report --from=saved --out=report.html"
HELP = f"""One self-contained HTML page about finished runs: results, curves, costs, answers, examples (docs/report.md).

  --runs=A,B          run folders, or folders that hold some
  --from=FOLDER       in place of runs: all runs below a folder, or a summary such as results/ml-100k
  --out=FILE          file to write (default: {OPTIONS['out']})
  --datasets=A,B      these data sets only
  --metrics=A,B       default: {",".join(SHOWN)}
  --baseline=NAME     the method that all others are tested against, such as BIGRec_SFT (default: the first SFT row)
  --title=TEXT        heading of the page

example: {EXAMPLE}
"""


def main(argv: Sequence[str]) -> int:
    """Writes the page and says where; returns the exit code.

    Raises:
        UserError: an option is wrong, or the runs cannot be read or compared.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    options = read_options(argv)
    out = Path(options["out"])
    if out.is_dir():
        raise SettingError(f"{out} is a folder", "--out", f"name a file: --out={out / 'report.html'}")
    write_page(out, chosen_runs(options).compared(), options["title"])
    sys.stdout.write(f"{out} ({out.stat().st_size / 2**20:.1f} MB)\n")
    return 0


def chosen_runs(options: Mapping[str, str]) -> Summary:
    """The methods that the options ask for, and how they are to be compared."""
    folder = Path(options["from"])
    if options["from"] and (folder / SUMMARY_FILE).is_file():
        summary = read_summary(folder)
    else:
        places = [Path(place) for place in listed(options["runs"])] or [folder]
        summary = Summary(group_methods(read_records(places)))
    return summary.narrowed(listed(options["datasets"]), listed(options["metrics"]), options["baseline"])


def read_options(argv: Sequence[str]) -> dict[str, str]:
    """The words of the command as options.

    Raises:
        SettingError: an unknown or missing option.
    """
    options = parse_options(argv, OPTIONS, OPTIONS, "report", EXAMPLE)
    if bool(options["runs"]) == bool(options["from"]):
        raise SettingError("give either --runs or --from", "command line", EXAMPLE)
    return options
