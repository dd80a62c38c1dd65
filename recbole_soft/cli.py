"""Command line: `python run_recbole_soft.py --model=BIGRec_SOFT --dataset=game [--key=value ...]`.

Reads the words, has every setting checked, and only then imports RecBole and torch: a typo costs a fraction
of a second. Mistakes of the user end in one message and exit code 2; a bug of ours keeps its traceback.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from recbole_soft import cli_help
from recbole_soft.config.sources import split_config_files, user_settings
from recbole_soft.config.validate import validate
from recbole_soft.config.words import EXAMPLE, parse_words
from recbole_soft.errors import EXIT_CODE, SettingError, UserError
from recbole_soft.parallel.group import speaks
from recbole_soft.parallel.launch import check_launch, launch
from recbole_soft.registry import is_llm_name

INTERRUPTED = 130
SUBCOMMANDS = {
    "prepare": "recbole_soft.data.prepare_cli",
    "plot": "recbole_soft.reporting.plot_cli",
    "benchmark": "recbole_soft.benchmark.command",
    "compare": "recbole_soft.reporting.compare_cli",
    "report": "recbole_soft.reporting.report_cli",
    "tune": "recbole_soft.tuning.tune_cli",
    "recommend": "recbole_soft.recommend_cli",
    "demo": "recbole_soft.demo.command",
    "export-teacher": "recbole_soft.export_teacher",
    "distill": "recbole_soft.distill_cli",
}
_KEPT = "stages that were finished are kept, and the next run goes on from them; --resume goes on within a stage"
_DISK_REMEDIES = {
    errno.ENOSPC: f"free some space, or choose another disk with --checkpoint_dir=FOLDER; {_KEPT}",
    errno.EDQUOT: f"free some space, or choose another disk with --checkpoint_dir=FOLDER; {_KEPT}",
    errno.EROFS: "choose a folder you may write to with --checkpoint_dir=FOLDER",
    errno.EACCES: "check the permissions, or write elsewhere with --checkpoint_dir=FOLDER",
    errno.EPERM: "check the permissions, or write elsewhere with --checkpoint_dir=FOLDER",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: words after the program's name; None takes those of the process.

    Returns:
        Exit code: 0 done, 2 a mistake the user can mend, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        if speaks():
            sys.stderr.write("\ninterrupted by the keyboard\n" + _KEPT + "\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has left. Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _DISK_REMEDIES:
            raise
        return _fail(UserError(str(error.strerror), error.filename, _DISK_REMEDIES[error.errno]).message())


def _dispatch(words: list[str]) -> int:
    if words and words[0] in SUBCOMMANDS:
        if launch().world_size > 1:
            raise SettingError(f"'{words[0]}' is the work of one process, and {launch().world_size} were started",
                               "command line", f"python run_recbole_soft.py {words[0]} ...")
        return int(importlib.import_module(SUBCOMMANDS[words[0]]).main(words[1:]) or 0)
    if not words or "--help" in words or "-h" in words or words == ["help"]:
        sys.stdout.write(cli_help.help_text())
        sys.stdout.flush()
        return 0 if words else EXIT_CODE
    if "--version" in words:
        sys.stdout.write(f"recbole_soft {cli_help.version()}\n")
        return 0
    _run(parse_words(words))
    return 0


def _run(command_line: dict[str, str]) -> None:
    config_files = split_config_files(command_line.pop("config_files", ""))
    settings, sources = user_settings(config_files, {}, command_line)
    model, dataset = _required(settings, "model"), _required(settings, "dataset")
    typed = validate(settings, sources, model, dataset)
    check_launch(launch(), typed.get("world_size"), model, is_llm_name(model))
    for name in ("model", "dataset"):
        command_line.pop(name, None)
    if launch().world_size > 1:
        sys.excepthook = _show_bug
    importlib.import_module("recbole_soft.run_log").quiet_libraries()
    logging.raiseExceptions = False  # a log file on a full disk must not add tracebacks to the one message
    run: Any = importlib.import_module("recbole_soft.run")
    run.run_recbole_soft(model=model, dataset=dataset, config_file_list=config_files,
                         command_line=command_line)


def _required(settings: dict[str, Any], key: str) -> str:
    value = settings.get(key)
    if not isinstance(value, str) or not value:
        if meant := get_close_matches(key, set(settings) - {"model", "dataset"}, 1, 0.75):
            raise SettingError(f"--{key} is missing", f"--{meant[0]}", f"--{key}={settings[meant[0]]}")
        choices = ", ".join(cli_help.known_datasets()) if key == "dataset" else "see --help for all names"
        raise SettingError(f"--{key} is missing", "command line", f"for example {EXAMPLE} ({choices})")
    return value


def _fail(message: str) -> int:
    sys.stdout.flush()
    if speaks():
        sys.stderr.write(f"error: {message}\n")
    return EXIT_CODE


def _show_bug(*error) -> None:
    """Shows an exception that is no mistake of the user with its traceback, from one of several processes."""
    if speaks():
        sys.__excepthook__(*error)
