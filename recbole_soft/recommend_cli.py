"""The `recommend` subcommand: a finished run, one history or a file of them, and what comes next.

Results go to stdout or to a file, everything else to stderr. Mistakes of the user leave as `UserError`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_soft.config.words import count, is_yes, parse_options
from recbole_soft.errors import SettingError

SOME_LINES_REFUSED = 3
SOURCES = ("history", "item_ids", "user_id", "input")
DEFAULTS = {"top": "10", "format": "table", "batch_size": "64", "trust_remote_code": "False"}
OPTIONS = ("run", "stage", *SOURCES, "output", "data_path", "llm_path", *DEFAULTS)
REPORTED_LINES = 20
EXAMPLE = 'python run_recbole_soft.py recommend --run=saved/RUN --history="Toy Story|Aladdin"'
HELP = f"""What a finished run recommends.

  --run=FOLDER        run of any model, such as saved/BIGRec_SOFT-ml-100k-1a2b3c4d
  --stage=NAME        weights of this stage, such as sft (default: the last)
  --top=N             items (default: {DEFAULTS["top"]})
  --data_path=FOLDER  folder that holds the data set, if it has moved
  --llm_path=FOLDER   folder of the language model, if it has moved
  --trust_remote_code=True   runs code that comes with the language model, if the run did, too

one of:
  --history="A|B"     titles, oldest first; \\| is a bar inside a title; or a JSON list: '["A", "B"]'
  --item_ids="1|2"    ids of the data set's files, oldest first
  --user_id=ID        everything that this user of the data did
  --input=FILE        .csv or .jsonl with a column history, item_ids or user_id, and optionally id;
                      with --output=FILE (.csv or .jsonl), --batch_size=N (default: {DEFAULTS["batch_size"]})

  --format=table|json of a single history (default: {DEFAULTS["format"]})

exit codes: 0 done, 2 nothing was done, {SOME_LINES_REFUSED} done, but lines of the input were refused
example: {EXAMPLE}
"""


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; `argv` is what comes after the word `recommend`.

    Returns:
        The exit code.

    Raises:
        UserError: an option, the run, or the history cannot be used.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    options = _parse(argv)
    top = count(options, "top")
    if "input" in options:
        return _batch(options, top)
    words = _words(options)
    recommender = _opened(options)
    answer = recommender.recommend(top=top, **words)
    from recbole_soft.recommend.formats import as_dictionary, as_table

    for note in answer.notes:
        sys.stderr.write(f"note: {note}\n")
    about = {"run": options["run"], "model": recommender.run.model, "dataset": recommender.run.dataset}
    if options["format"] == "json":
        text = json.dumps(about | as_dictionary(answer), ensure_ascii=False, indent=1)
    else:
        text = as_table(answer, f"{answer.label} on {about['dataset']} ({options['run']}, stage {answer.stage})",
                        shutil.get_terminal_size((100, 24)).columns)
    sys.stdout.write(text + "\n")
    return 0


def _batch(options: dict[str, str], top: int) -> int:
    from tqdm import tqdm

    from recbole_soft.recommend.batch import check_files, count_lines, recommend_file

    if "output" not in options:
        raise SettingError("--output is missing", "command line", "for instance --output=recommendations.jsonl")
    source, out, size = Path(options["input"]), Path(options["output"]), count(options, "batch_size")
    check_files(source, out)
    lines = count_lines(source)
    recommender = _opened(options)
    refused: list[int] = []

    def report(number: int, error: str) -> None:
        refused.append(number)
        if len(refused) <= REPORTED_LINES:
            tqdm.write(f"{source}, line {number}: {error}", file=sys.stderr)

    try:
        with tqdm(total=lines, desc="Recommending", unit="history", disable=not sys.stderr.isatty()) as bar:
            result = recommend_file(recommender, source, out, top, batch_size=size, report=report, progress=bar.update)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nwhat was answered so far is in {out}.part")
        raise
    if len(refused) > REPORTED_LINES:
        sys.stderr.write(f"... and {len(refused) - REPORTED_LINES} more lines; {out} has the error of each\n")
    sys.stderr.write(f"{result.answered:,} histories answered, {result.refused:,} lines refused\n")
    sys.stdout.write(f"{out}\n")
    return SOME_LINES_REFUSED if result.refused else 0


def _opened(options: dict[str, str]) -> Any:
    from recbole_soft.recommend.recommender import load_recommender

    if sys.stderr.isatty():
        sys.stderr.write(f"opening {options['run']} ...\n")
    return load_recommender(options["run"], options.get("stage"), options.get("data_path"), options.get("llm_path"),
                            is_yes(options, "trust_remote_code"))


def _words(options: dict[str, str]) -> dict[str, Any]:
    from recbole_soft.recommend.histories import split_words

    if "user_id" in options:
        return {"user_id": options["user_id"].strip()}
    name = "history" if "history" in options else "item_ids"
    words = split_words(options[name])
    if not words:
        raise SettingError("the history is empty", where=f"--{name}={options[name]}", remedy="give at least one item")
    return {"titles" if name == "history" else name: words}


def _parse(argv: Sequence[str]) -> dict[str, str]:
    options = parse_options(argv, OPTIONS, DEFAULTS, "recommend", EXAMPLE)
    if not options.get("run"):
        raise SettingError("--run is missing", "command line", EXAMPLE)
    given = [f"--{name}" for name in SOURCES if name in options]
    if len(given) != 1:
        raise SettingError(f"exactly one of {', '.join(f'--{name}' for name in SOURCES)} is needed; "
                           f"given: {', '.join(given) or 'none'}", "command line", EXAMPLE)
    if "output" in options and "input" not in options:
        raise SettingError("--output is for a file of histories", "command line", "add --input=FILE, or remove it")
    if options["format"] not in ("table", "json"):
        raise SettingError(f"format = {options['format']}: must be table or json", "command line", "--format=json")
    is_yes(options, "trust_remote_code")
    return options
