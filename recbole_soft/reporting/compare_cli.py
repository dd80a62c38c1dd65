"""The `compare` subcommand: a table with its statistics from finished runs, or from a summary of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_soft.artifacts import make_folder, write_text
from recbole_soft.config.words import is_yes, listed, parse_options
from recbole_soft.errors import SettingError, nearest
from recbole_soft.reporting.comparison import SHOWN, Comparison
from recbole_soft.reporting.comparison_formats import FORMATS, terminal
from recbole_soft.reporting.methods import group_methods
from recbole_soft.reporting.records import read_records
from recbole_soft.reporting.summaries import Summary, read_summary, write_summary

OPTIONS = {"runs": "", "from": "", "metrics": "", "baseline": "", "datasets": "", "details": "False", "out": "",
           "save": "", "format": "txt"}
EXAMPLE = "python run_recbole_soft.py compare --runs=saved --baseline=BIGRec_SFT"
HELP = f"""Compares finished runs: means over seeds, intervals, paired tests, gains (docs/comparing.md).

  --runs=A,B          run folders, or folders that hold some; runs that differ in their seed alone are one row
  --from=FOLDER       in place of runs: a summary, such as results/ml-100k
  --baseline=NAME     the row that all others are tested against, such as BIGRec_SFT (default: the first SFT row)
  --metrics=A,B       default: {",".join(SHOWN)}
  --datasets=A,B      these data sets only
  --details=True      intervals, p-values, effect sizes, windows needed
  --format=FORMAT     what is printed: {", ".join(FORMATS)}
  --out=FOLDER        writes table.txt, table.md, table.csv and table.tex there
  --save=FOLDER       writes a summary there, small enough for a repository

example: {EXAMPLE}
"""


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code.

    Raises:
        UserError: an option is wrong, or the runs cannot be read or compared.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    options = read_options(argv)
    summary = read_summary(Path(options["from"])) if options["from"] else Summary(
        group_methods(read_records([Path(place) for place in listed(options["runs"])])))
    summary = summary.narrowed(listed(options["datasets"]), listed(options["metrics"]), options["baseline"])
    comparison = summary.compared()
    sys.stdout.write(terminal(comparison, is_yes(options, "details")) if options["format"] == "txt"
                     else FORMATS[options["format"]](comparison))
    if options["out"]:
        write_tables(Path(options["out"]), comparison)
    if options["save"]:
        write_summary(Path(options["save"]), summary)
    return 0


def write_tables(folder: Path, comparison: Comparison) -> list[Path]:
    """Writes the comparison in every format; returns the files: `table.txt`, `table.md`, `table.csv`, `table.tex`."""
    make_folder(folder, "out")
    files = []
    for ending, form in FORMATS.items():
        files.append(folder / f"table.{ending}")
        write_text(files[-1], form(comparison))
    return files


def read_options(argv: Sequence[str]) -> dict[str, str]:
    """The words of the command as options.

    Raises:
        SettingError: an unknown or missing option.
    """
    options = parse_options(argv, OPTIONS, OPTIONS, "compare", EXAMPLE)
    if bool(options["runs"]) == bool(options["from"]):
        raise SettingError("give either --runs or --from", "command line", EXAMPLE)
    if options["format"] not in FORMATS:
        raise SettingError(f"there is no format '{options['format']}'", "--format", nearest(options["format"], FORMATS))
    is_yes(options, "details")
    return options
