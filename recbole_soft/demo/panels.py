"""What the page shows, without the page: runs and stages side by side, histories as lines of text, search for titles.

Knows nothing of HTML or of the library that serves the page.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recbole_soft.errors import DataError, SettingError, UserError
from recbole_soft.recommend.recommender import Recommendations, Recommender, load_recommender


@dataclass(frozen=True)
class Panel:
    """A stage of a run.

    Attributes:
        recommender: the run; panels of one run share it.
        stage: whose weights answer.
        folder: the run's folder, as it was given.
    """

    recommender: Recommender
    stage: str
    folder: str

    @property
    def label(self) -> str:
        """Row of the run's result table, such as `BIGRec SOFT`."""
        return self.recommender.stages[self.stage]


@dataclass(frozen=True)
class PanelAnswer:
    """What a panel has to say.

    Attributes:
        panel: whose answer it is.
        answer: the recommendations; None while they are awaited, or where there is an error.
        error: why there are none.
        seconds: that the answer took.
    """

    panel: Panel
    answer: Recommendations | None = None
    error: str = ""
    seconds: float = 0.0


class SideBySide:
    """Panels over one catalogue. Answers one question at a time, whoever asks.

    Args:
        panels: at least one; all of runs with the same items.

    Raises:
        DataError: the runs know different items.
    """

    def __init__(self, panels: Sequence[Panel]):
        self.panels, first = tuple(panels), panels[0].recommender
        for panel in panels:
            if panel.recommender.catalogue_fingerprint != first.catalogue_fingerprint:
                raise DataError("the runs know different items, so no history fits all of them",
                                where=f"{panels[0].folder}, {panel.folder}",
                                remedy="give runs on the same data set with the same filter")
        self.dataset, self._reader = first.run.dataset, first.reader
        self._first, self._asking = first, threading.Lock()

    @property
    def has_titles(self) -> bool:
        """Whether histories are lines of titles; else of item ids."""
        return self._reader.titles is not None

    @property
    def item_count(self) -> int:
        """Items of the catalogue."""
        return self._first.run.record["data"]["items"]

    def search(self, text: str, limit: int = 10) -> list[str]:
        """Titles that hold what is being typed, likely ones first."""
        found = self._reader.titles.search(text, limit) if self._reader.titles else []
        return list(dict.fromkeys(self._first.item(item).title for item in found))

    def history_of(self, user_id: str) -> list[str]:
        """The lines of a user's whole history.

        Raises:
            DataError: there is no such user.
        """
        items = [self._first.item(item) for item in self._reader.read(user_id=user_id.strip()).items]
        return [item.title or item.item_id for item in items]

    def some_user(self, generator: random.Random) -> str:
        """Id of a user of the data."""
        return generator.choice(self._reader.users)

    def example(self, tried: int = 20) -> list[str]:
        """A short history that is really somebody's, the same every time."""
        generator = random.Random(0)
        return min((self.history_of(self.some_user(generator)) for _ in range(tried)), key=len)

    def answers(self, lines: Sequence[str], top: int) -> Iterator[list[PanelAnswer]]:
        """The panels' answers as they come: first all awaited, at the end all there.

        Args:
            lines: titles (item ids where there are no titles), oldest first; empty ones are passed over.
            top: items per panel.
        """
        words = [line.strip() for line in lines if line.strip()]
        found = [PanelAnswer(panel) for panel in self.panels]
        yield list(found)
        for place, panel in enumerate(self.panels):
            found[place] = self._answer(panel, words, top)
            yield list(found)

    def _answer(self, panel: Panel, words: list[str], top: int) -> PanelAnswer:
        with self._asking:
            started = time.perf_counter()
            try:
                answer = panel.recommender.recommend(
                    titles=words if self.has_titles else None, item_ids=None if self.has_titles else words, top=top,
                    stage=panel.stage)
            except UserError as error:
                return PanelAnswer(panel, error=error.what + (f"; {error.remedy}" if error.remedy else ""))
            return PanelAnswer(panel, answer, seconds=time.perf_counter() - started)


def open_panels(words: Sequence[str], data_path: str | None = None) -> list[Panel]:
    """Panels of runs; a run is opened once however often it is named.

    Args:
        words: `FOLDER` for all stages of a run, or `FOLDER:STAGE`.
        data_path: folder that holds the data set, if it has moved.

    Raises:
        UserError: nothing is named, a run cannot be opened, or it has no such stage.
    """
    opened: dict[str, Recommender] = {}
    panels: list[Panel] = []
    for word in words:
        folder, separator, stage = word.rpartition(":")
        if not separator or "/" in stage or "\\" in stage:
            folder, stage = word, ""
        if folder not in opened:
            opened[folder] = load_recommender(folder, data_path=data_path)
        recommender = opened[folder]
        stages = [recommender.run.stage(stage)] if stage else list(recommender.stages)
        panels += [Panel(recommender, name, folder) for name in stages]
    if not panels:
        raise SettingError("no run is named", where="runs", remedy="for instance --runs=saved/RUN,saved/OTHER")
    return list(dict.fromkeys(panels))


def shared_items(answers: Sequence[PanelAnswer]) -> dict[str, int]:
    """By item id, how many panels recommend it."""
    counts: dict[str, int] = {}
    for one in answers:
        for item in one.answer or ():
            counts[item.item_id] = counts.get(item.item_id, 0) + 1
    return counts
