"""A finished run on disk: its record, its stages, and where its files are today.

Paths in a record may be relative to a working folder that is not today's, and run folders are moved about together
with what lies beside them. Reads the record only; opens neither data nor models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole_soft.config.layers import chosen_components, known_settings
from recbole_soft.errors import ModelError, SettingError, nearest
from recbole_soft.registry import is_llm_name

RECORD_FILE = "run.json"
DEFAULT_DATA_PATH = "dataset"
# What a run needs to be trained, and what would only be in the way when it is opened again.
ONLY_FOR_TRAINING = ("sft_adapter", "run_name")


@dataclass(frozen=True)
class FinishedRun:
    """Attributes:
    folder: where the run is now.
    record: its run.json.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def model(self) -> str:
        return self.record["model"]

    @property
    def dataset(self) -> str:
        return self.record["dataset"]

    @cached_property
    def stages(self) -> dict[str, str]:
        """Row of the result table by name of a stage, in order; a traditional model has one, `test`."""
        return {row["stage"]: row["label"] for row in self.record["results"]}

    def stage(self, name: str | None = None) -> str:
        """The name of a stage; the last one where none is asked for.

        Raises:
            SettingError: the run has no such stage.
        """
        if not name:
            return list(self.stages)[-1]
        if name not in self.stages:
            remedy = nearest(name, self.stages) if is_llm_name(self.model) else "leave it out: the run has one result"
            raise SettingError(f"the run has no stage '{name}'", where=f"{self.folder} ({self.model})", remedy=remedy)
        return name

    def result(self, stage: str) -> dict[str, Any]:
        """The record's entry for a stage."""
        return next(row for row in self.record["results"] if row["stage"] == stage)

    def weights(self, stage: str) -> Path | None:
        """Folder of a stage's weights; None where the stage has the language model's own.

        Raises:
            ModelError: they are gone.
        """
        if not self.record["stages"][stage]["folder"]:
            return None
        folder = self.folder / stage
        if not folder.is_dir():
            others = " or ".join(f"--stage={name}" for name in self.stages if (self.folder / name).is_dir())
            raise ModelError(f"the weights of stage '{stage}' are gone", where=str(folder),
                             remedy=f"copy the whole run folder{f', or choose {others}' if others else ''}")
        return folder

    def path(self, recorded: str) -> str:
        """Where a path of the record is today; the path itself where it is nowhere."""
        path = Path(recorded).expanduser()
        places = [path] if path.is_absolute() else [root / path for root in self._working_folders()]
        parent = Path(self.record["config"].get("checkpoint_dir") or "saved").expanduser()
        if path.is_relative_to(parent):  # what lay beside the run may have moved with it
            places.append(self.folder.parent / path.relative_to(parent))
        return next((str(place) for place in places if place.exists()), recorded)

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The user's settings of the run, with paths as they are today.

        Args:
            given: settings in place of the run's; those that are empty are not given.

        Raises:
            ModelError: the language model brings code of its own, and nobody has said now that it may run: a record
                may be somebody else's.
        """
        if self.record["user_settings"].get("trust_remote_code") and not given.get("trust_remote_code"):
            raise ModelError("the run's language model brings program code of its own",
                             where=f"{self.folder}, llm_path={self.record['user_settings'].get('llm_path')}",
                             remedy="--trust_remote_code=True, if you trust it")
        settings = {name: value for name, value in self.record["user_settings"].items()
                    if name not in ONLY_FOR_TRAINING}
        for name in self._path_settings(settings):
            if isinstance(settings.get(name), str):
                settings[name] = self.path(settings[name])
        parent = settings.get("checkpoint_dir", self.record["config"].get("checkpoint_dir") or "saved")
        settings["artifacts_dir"] = self.path(settings.get("artifacts_dir") or str(Path(parent) / "artifacts"))
        if not Path(settings["artifacts_dir"]).is_dir():
            settings["artifacts_dir"] = str(self.folder.parent / "artifacts")
        if "data_path" not in settings and (found := self._data_beside_run()):
            settings["data_path"] = found
        return settings | {name: value for name, value in given.items() if value}

    def _path_settings(self, settings: dict[str, Any]) -> list[str]:
        ours = known_settings(chosen_components(self.model, settings)).values()
        return ["data_path", "checkpoint_dir", *(setting.name for setting in ours if setting.kind == "path")]

    def _working_folders(self) -> list[Path]:
        """Folders that relative paths of the record may start from, the most likely first."""
        parent = Path(self.record["config"].get("checkpoint_dir") or "saved")
        here, folders = self.folder.resolve().parent, []
        if not parent.is_absolute() and here.parts[-len(parent.parts):] == parent.parts:
            folders.append(Path(*here.parts[: len(here.parts) - len(parent.parts)]))
        if self.record.get("working_folder"):
            folders.append(Path(self.record["working_folder"]))
        return [*folders, Path()]

    def _data_beside_run(self) -> str | None:
        """The default folder of data sets in the working folder of then, if it has the run's."""
        for root in self._working_folders():
            if (root / DEFAULT_DATA_PATH / self.dataset / f"{self.dataset}.inter").is_file():
                return str(root / DEFAULT_DATA_PATH)
        return None


def read_run(folder: str | Path) -> FinishedRun:
    """The run in a folder, or of a run.json.

    Raises:
        ModelError: there is no folder, no finished run in it, or a record that cannot be read.
    """
    given = Path(folder).expanduser()
    place = given.parent if given.name == RECORD_FILE else given
    if not place.is_dir():
        raise ModelError("there is no such run folder", where=str(given), remedy=_runs_in(place.parent))
    try:
        record = json.loads((place / RECORD_FILE).read_text(encoding="utf-8"))
        _ = record["model"] + record["dataset"], [row["stage"] + row["label"] for row in record["results"]]
        _ = dict(record["user_settings"]), dict(record["config"]), dict(record["stages"]), dict(record["data"])
        if not record["results"]:
            raise ValueError("it has no result")
    except FileNotFoundError as error:
        unfinished = any((place / name).exists() for name in ("run.log", "recbole_checkpoint.pth"))
        what = "the run in this folder has not finished" if unfinished else "there is no run in this folder"
        remedy = "start its command again; finished stages are kept" if unfinished else _runs_in(place)
        raise ModelError(f"{what} (no {RECORD_FILE})", where=str(place), remedy=remedy) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the record of the run cannot be read: {type(error).__name__}: {error}",
                         where=str(place / RECORD_FILE), remedy="train again, or bring back the file") from error
    return FinishedRun(place, record)


def _runs_in(folder: Path) -> str:
    """A remedy that names runs of a folder."""
    runs = sorted(path.parent for path in folder.glob(f"*/{RECORD_FILE}")) if folder.is_dir() else []
    named = ", ".join(map(str, runs[:5])) + (", ..." if len(runs) > 5 else "")
    return f"give the folder that a finished run printed{f', for instance {named}' if runs else ''}"
