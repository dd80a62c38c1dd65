"""Run folders: their names, one run at a time in each, and what an interrupted run left there.

What an interrupted run left lies in `unfinished/` of its run folder and vanishes when the run has ended well. It is
used on request alone (`resume`), and only if the run has the very same settings. Knows nothing of what is in it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import UNFINISHED, content_key, read_json, write_json
from recbole_soft.config.schema import NOT_RESULTS
from recbole_soft.errors import SettingError
from recbole_soft.parallel.group import by_first, from_first, gather
from recbole_soft.reporting.methods import COMPANION_PATHS
from recbole_soft.reporting.record import RECORD_FILE
from recbole_soft.resuming.locks import only_process_in

logger = logging.getLogger("recbole_soft")
BEGUN_FILE = "begun.json"
# Settings that name what a run reads beside its data.
_READ_FROM = (*COMPANION_PATHS, "llm_path", "self_distilled", "cot_path")
_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{12}\Z")


def deciding_settings(config) -> dict[str, Any]:
    """The settings that decide a run's results."""
    return {key: value for key, value in config.final_config_dict.items() if key not in NOT_RESULTS}


def run_folder(config) -> Path:
    """Folder of a run: named by the user, or after model, data and a hash of the settings."""
    name = config["run_name"]
    if name and (Path(name).name != name or name in (".", "..")):
        raise SettingError(f"run_name = '{name}' is not the name of a folder", where="run_name",
                           remedy="give a plain name; the place is --checkpoint_dir=FOLDER")
    if not name:
        name = f"{config['model']}-{config['dataset']}-{content_key(settings=deciding_settings(config))[:8]}"
    return Path(config["checkpoint_dir"]) / name


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder.

    Raises:
        UserError: another one is at work there.
    """
    with by_first(_tidied(folder)):
        yield


@contextmanager
def _tidied(folder: Path) -> Iterator[None]:
    with only_process_in(folder, "give this run a folder of its own: --run_name=NAME"):
        remove_half_written(folder)
        yield


def remove_half_written(folder: Path) -> None:
    """Removes what a process that was killed had begun to write; to be called by the one that is at work there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _HALF_WRITTEN.match(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def tidy(folder: Path) -> None:
    """Removes what a finished run that was killed in its very last moment left in its folder."""
    if any(path.name.startswith(".") or path.name == UNFINISHED for path in folder.iterdir()):
        with alone_in(folder):
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


@contextmanager
def kept_while_unfinished(config, folder: Path) -> Iterator[bool]:
    """Decides whether the run goes on from an interrupted one, and keeps what it needs until the block ends well.

    Yields whether it goes on. Sets `resume` of `config` to what was decided, and `settings_key` to a hash of what
    decides the run.

    Args:
        folder: of the run; no other process is at work there.

    Raises:
        SettingError: `resume` was asked for, and the interrupted run in the folder has other settings.
    """
    with by_first(_kept(config, folder)) as goes_on:
        config["resume"], config["settings_key"] = from_first(lambda: (config["resume"], config["settings_key"]))
        yield goes_on
        gather("done")  # what an interrupted run needs stays until all processes have ended well


@contextmanager
def _kept(config, folder: Path) -> Iterator[bool]:
    settings = {key: str(value) for key, value in deciding_settings(config).items()}
    config["settings_key"] = content_key(settings=settings)
    unfinished = folder / UNFINISHED
    begun = _begun(unfinished)
    config["resume"] = _is_wanted(config["resume"], begun, settings, folder)
    goes_on = begun is not None and config["resume"]
    if goes_on:
        logger.info("going on with the run of %s in %s", begun["when"], folder)
        _warn_of_another_machine(begun)
    else:
        shutil.rmtree(unfinished, ignore_errors=True)
        write_json(unfinished / BEGUN_FILE, {"when": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "settings": settings,
                                             "machine": _machine()})
    yield goes_on
    # Under another name first: half of a removed folder must not look like an interrupted run.
    away = folder / f".{UNFINISHED}.{secrets.token_hex(6)}"
    os.replace(unfinished, away)
    shutil.rmtree(away, ignore_errors=True)


def finished_record(folder: Path, config, about_data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a run of the same settings and data that ended well in this folder; None if there is none."""
    try:
        record = from_first(lambda: read_json(folder / RECORD_FILE) if (folder / RECORD_FILE).is_file() else None)
        is_same = (record["config"]["settings_key"], record["data"]) == (config["settings_key"], about_data)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (is_same and record.get("tested")):
        return None
    if changed := from_first(lambda: _changed_since(config, (folder / RECORD_FILE).stat().st_mtime)):
        logger.info("this run is finished, but %s has changed since: it starts anew", changed)
        return None
    logger.info("this run is finished already; its record is shown. Without --resume it would start anew")
    return record


def _changed_since(config, moment: float) -> str | None:
    """A file that the run reads beside its data, and that is newer than `moment`."""
    for setting in _READ_FROM:
        if config[setting] and (changed := newer_file(Path(config[setting]), moment)):
            return f"{setting} ({changed})"
    return None


def newer_file(path: Path, moment: float) -> str | None:
    """A file of a folder (or the file itself) that is newer than `moment` in seconds since 1970; None if there is none,
    as for names on the model hub."""
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return next((str(file) for file in files if file.is_file() and file.stat().st_mtime > moment), None)


def _begun(unfinished: Path) -> dict[str, Any] | None:
    """What an interrupted run noted when it began; None if there is none, or it has saved nothing since."""
    try:
        begun = read_json(unfinished / BEGUN_FILE)
        has_saved = any(path.name != BEGUN_FILE for path in unfinished.iterdir())
        return begun if has_saved and {"when", "settings", "machine"} <= begun.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _is_wanted(resume: bool | None, begun: Mapping[str, Any] | None, settings: Mapping[str, str],
               folder: Path) -> bool:
    if begun is None:
        if resume and not (folder / RECORD_FILE).is_file():
            logger.info("nothing to go on with in %s: the run starts from the beginning", folder)
        return bool(resume)
    others = _differences(begun["settings"], settings)
    if others and resume:
        raise SettingError(
            f"the interrupted run in this folder has other settings: {'; '.join(others[:5])}", where=str(folder),
            remedy="give the settings of that run, or leave out --resume to start anew in its place, or choose "
            "another --run_name")
    if others:
        logger.warning("an interrupted run of other settings in %s is given up", folder)
        return False
    if resume is None and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write(f"The same run was interrupted; it began at {begun['when']}. Go on with it? [Y/n] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("", "y", "yes")
    if resume is None:
        logger.warning("an interrupted run of the same settings, begun at %s, is given up: --resume would have gone "
                       "on with it (finished stages are reused all the same)", begun["when"])
    return bool(resume)


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """`seed was 42, is 43` for every setting that differs."""
    return [f"{name} was {before.get(name, 'not set')}, is {now.get(name, 'not set')}"
            for name in sorted({*before, *now}) if before.get(name) != now.get(name)]


def _machine() -> dict[str, str]:
    """What decides the last digits, beside the settings."""
    import torch

    return {"torch": torch.__version__, "threads": str(torch.get_num_threads()),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}


def _warn_of_another_machine(begun: Mapping[str, Any]) -> None:
    others = _differences(begun["machine"], _machine())
    if others:
        logger.warning("the last digits of the results may differ from those of an uninterrupted run: %s",
                       "; ".join(others))
