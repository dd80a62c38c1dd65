"""Whether a run that is already there can stand for a cell, and if not, why.

A run folder's name holds a hash of the run's resolved settings, property files included, so other settings look for
another folder. Beyond that, a record counts if it can be read whole, its ranks belong to it, and neither the data
files, a local language model nor a run it was made from have changed since. A new version of our code is reported and
does not make a record invalid, unless `same_code` is asked for: most commits change no number, and a table of many
days' work should not be thrown away for a comment.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from recbole_soft.data.sources import data_files
from recbole_soft.errors import SettingError
from recbole_soft.reporting.record import commit
from recbole_soft.reporting.records import RecordError, RunRecord, read_run
from recbole_soft.run_folders import newer_file


class Validity:
    """Judges runs; hashes of data files are taken once.

    Args:
        same_code: also ask for the commit that is checked out now.

    Raises:
        SettingError: `same_code`, and the code is not that of a commit.
    """

    def __init__(self, same_code: bool = False):
        self.same_code = same_code
        self.commit = commit()
        if same_code and (self.commit or "+").endswith("+"):
            raise SettingError("the code has no commit of its own, so no run can be known to be of the same code",
                               "--same_code", "commit what is changed in the package and in properties/, or leave "
                               "it out")
        self._files: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, data_folder: Path | None, made_from: Iterable[RunRecord] = ()
             ) -> tuple[RunRecord | None, str]:
        """The valid run in `folder`, or None and why there is none (empty: nothing was ever there).

        Args:
            data_folder: where the data set's files lie now; None skips their check.
            made_from: runs it used; it must be younger than they are.
        """
        if not (folder / "run.json").is_file():
            return None, ""
        try:
            run = read_run(folder)
        except RecordError as error:
            return None, error.what
        return (None, why) if (why := self._mistake(run, data_folder, made_from)) else (run, "")

    def _mistake(self, run: RunRecord, data_folder: Path | None, made_from: Iterable[RunRecord]) -> str:
        if data_folder is not None and run.data.get("files") != self._hashes(data_folder, run.dataset):
            return "the files of the data set have changed since"
        llm = run.config.get("llm_path")
        if llm and (changed := newer_file(Path(llm), _written(run))):
            return f"the language model has changed since: {changed}"
        for source in made_from:
            if _written(source) > _written(run):
                return f"the run it was made from is newer: {source.place}"
        if self.same_code and run.raw.get("commit") != self.commit:
            return f"it was made by another version of the code: {run.raw.get('commit')}, now {self.commit}"
        return ""

    def _hashes(self, folder: Path, dataset: str) -> dict[str, str]:
        if folder not in self._files:
            self._files[folder] = data_files(folder, dataset)
        return self._files[folder]


def _written(run: RunRecord) -> float:
    """When the record was written, in seconds since 1970."""
    return datetime.fromisoformat(run.raw["written"]).timestamp()
