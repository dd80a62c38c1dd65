"""`python run_recbole_soft.py plot --run=saved/RUN [--out=curriculum.png]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_soft.config.words import parse_options
from recbole_soft.errors import SettingError, UserError
from recbole_soft.reporting.plots import plot_curriculum
from recbole_soft.reporting.record import RECORD_FILE

OPTIONS = ("run", "out")
EXAMPLE = "plot --run=saved/RUN --out=curriculum.png"
HELP = f"""Draws tau, the distance and the losses of a SOFT run from its record (extra: plots).

  --run=FOLDER        a finished run
  --out=FILE          default: curriculum.png in the run's folder

example: python run_recbole_soft.py {EXAMPLE}
"""


def main(argv: Sequence[str]) -> int:
    """Draws tau, d_t and the losses of a run; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    values = parse_options(argv, OPTIONS, {}, "plot", EXAMPLE)
    if "run" not in values:
        raise SettingError("--run is missing", "command line", "plot --run=saved/RUN")
    folder = Path(values["run"])
    record_path = folder / RECORD_FILE if folder.is_dir() else folder
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("there is no readable record of a run", where=str(record_path),
                        remedy="give the folder that a finished run printed") from error
    path = plot_curriculum(record, Path(values.get("out", record_path.parent / "curriculum.png")))
    sys.stdout.write(f"{path}\n")
    return 0
