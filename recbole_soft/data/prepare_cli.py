"""The `prepare` subcommand: from raw Amazon files to RecBole's atomic files.

Reads `--key=value` options and prints the manifest as a table. User mistakes leave as `UserError`; whoever
calls `main` prints them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from recbole_soft.config.words import parse_options
from recbole_soft.data.amazon import prepare_amazon
from recbole_soft.data.prep_engine import ENGINES
from recbole_soft.errors import SettingError

REQUIRED = ("ratings", "metadata", "name")
OPTIONAL = {"out": "dataset", "k_core": "", "engine": "auto"}
RESUME = ("--resume", "--resume=True")
EXAMPLE = (
    "python run_recbole_soft.py prepare "
    "--ratings=Video_Games.csv.gz --metadata=meta_Video_Games.jsonl.gz --name=game"
)
HELP = f"""Prepares RecBole's atomic files from raw Amazon files, plain or gzip.

  --ratings=FILE    ratings-only file (user_id,parent_asin,rating,timestamp; 2014, 2018 or 2023)
  --metadata=FILE   item metadata of the same category (one item per line)
  --name=NAME       name of the data set: game, movie and kindle are the paper's
  --out=FOLDER      the set is written to FOLDER/NAME (default: {OPTIONAL["out"]})
  --k_core=K        write only the iterative K-core (default: all; training applies its own);
                    large files then take far less memory: what is outside is counted, not read in
  --engine=NAME     {", ".join(ENGINES)} (default: auto, which is polars where it is installed and pandas elsewhere);
                    they write the same files, polars faster: pip install -e ".[prep]"

example: {EXAMPLE}
The raw files of 2023 are linked at https://amazon-reviews-2023.github.io
"""


def main(argv: list[str]) -> int:
    """Runs the subcommand; `argv` holds what comes after the word `prepare`.

    Returns:
        0; mistakes raise.

    Raises:
        SettingError: an option that is unknown, missing or malformed.
        DataError: see `prepare_amazon`.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    options = _parse(argv)
    manifest = prepare_amazon(
        Path(options["ratings"]).expanduser(), Path(options["metadata"]).expanduser(),
        Path(options["out"]).expanduser(), options["name"], k_core=_k_core(options["k_core"]),
        engine=options["engine"],
    )
    sys.stdout.write(manifest.table() + "\n")
    return 0


def _parse(argv: list[str]) -> dict[str, str]:
    # A preparation is written as a whole, at its end: with --resume it starts anew, with the same result.
    words = [word for word in argv if word not in RESUME]
    options = parse_options(words, (*REQUIRED, *OPTIONAL), OPTIONAL, "prepare", EXAMPLE)
    for key in REQUIRED:
        if not options.get(key):
            raise SettingError(f"--{key} is missing", where="prepare", remedy=f"e.g. {EXAMPLE}")
    return options


def _k_core(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise SettingError(f"k_core is '{text}', which is no whole number", where="prepare",
                           remedy="e.g. --k_core=10")
    return int(text)
