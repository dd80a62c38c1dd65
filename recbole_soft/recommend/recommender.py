"""A finished run as a recommender: histories in, ranked items and what the language model wrote out.

    from recbole_soft import load_recommender

    recommender = load_recommender("saved/BIGRec_SOFT-ml-100k-787d6629")
    for item in recommender.recommend(titles=["Toy Story", "Aladdin"], top=5):
        ...                                             # item.place, item.item_id, item.title, item.distance

Ranks as the run's own test does: same weights, prompts, masking, and ties broken by the lower item id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_soft.data.catalog import Catalog
from recbole_soft.errors import SettingError
from recbole_soft.models.base import LLMRecommender
from recbole_soft.models.bigrec import BIGRec
from recbole_soft.recommend.finished_run import FinishedRun, read_run
from recbole_soft.recommend.histories import History, HistoryReader
from recbole_soft.recommend.opening import OpenedRun

NEAREST_SHOWN = 5


@dataclass(frozen=True)
class CatalogueItem:
    """An item as the data set's files name it; title and category are empty where there are none."""

    item_id: str
    title: str
    category: str


@dataclass(frozen=True)
class Recommendation(CatalogueItem):
    """One recommended item.

    Attributes:
        place: 1 is best.
        score: the run's own, larger is better.
        distance: between the vectors of title and generated answer; None where the model grounds none.
    """

    place: int
    score: float
    distance: float | None


@dataclass(frozen=True)
class NearItem(CatalogueItem):
    """An item near the generated answer; `is_known` if it is no candidate, because the history holds it."""

    distance: float
    is_known: bool


@dataclass(frozen=True)
class Recommendations(Sequence[Recommendation]):
    """What a run recommends for one history, best first.

    Attributes:
        items: the recommendations.
        generated: what the language model wrote, best beam first; empty for other models.
        nearest: catalogue items nearest to the first of them, those of the history included.
        history: everything that was given, oldest first.
        read: how many of its last items the model has read.
        notes: what was understood otherwise than written, and what limits the answer.
        label: row of the run's result table, such as `BIGRec SOFT`.
        stage: whose weights answered.
    """

    items: tuple[Recommendation, ...]
    generated: tuple[str, ...]
    nearest: tuple[NearItem, ...]
    history: tuple[CatalogueItem, ...]
    read: int
    notes: tuple[str, ...]
    label: str
    stage: str

    def __getitem__(self, index):
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)


class Recommender:
    """A finished run, opened once. Get one by `load_recommender`.

    Args:
        run: the run.
        stage: whose weights answer where a call names none; the last by default.
        given: settings in place of the run's.
    """

    def __init__(self, run: FinishedRun, stage: str | None, given: Mapping[str, Any]):
        self.run, self.stage = run, run.stage(stage)
        self._opened = OpenedRun(run, given)
        self._opened.switch_to(self.stage)
        self.reader = HistoryReader(self._opened.dataset)

    @property
    def stages(self) -> dict[str, str]:
        """Labels of the run's stages by name, in order."""
        return self.run.stages

    @property
    def catalogue_fingerprint(self) -> str | None:
        """Hash of the catalogue; recommenders with the same one know the same items."""
        return self.run.record["data"]["catalogue"]

    def recommend(self, *, titles: Sequence[str] | None = None, item_ids: Sequence[str] | None = None,
                  user_id: str | None = None, top: int = 10, stage: str | None = None) -> Recommendations:
        """Recommends for one history.

        Args:
            titles, item_ids: the history, oldest first, in one of two forms.
            user_id: in place of a history: everything that this user of the data did, up to the end of the data.
            top: how many items, fewer where fewer are candidates.
            stage: whose weights; the recommender's by default.

        Raises:
            UserError: no history or several, something in it that the run does not know, no such stage.
        """
        return self.recommend_many([self.history(titles=titles, item_ids=item_ids, user_id=user_id)], top, stage)[0]

    def history(self, *, titles: Sequence[str] | None = None, item_ids: Sequence[str] | None = None,
                user_id: str | None = None) -> History:
        """A history for `recommend_many`; see `recommend`."""
        return self.reader.read(titles, item_ids, user_id)

    def recommend_many(self, histories: Sequence[History], top: int = 10,
                       stage: str | None = None) -> list[Recommendations]:
        """Recommends for several histories at once, which a language model answers together."""
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise SettingError(f"top = {top}: must be an integer from 1 up", where="top", remedy="for instance top=10")
        stage = self.run.stage(stage or self.stage)
        if not histories:
            return []
        self._opened.switch_to(stage)
        windows = self.reader.windows(histories)
        met = self.reader.met(histories, self._opened.config["mask_history"])
        scores = self._opened.scores(windows, met)
        distances, generated = self._grounding(windows)
        lengths = windows[self._opened.dataset.item_list_length_field].tolist()
        return [Recommendations(
            items=self._best(scores[row], distances[row] if distances is not None else None, top),
            generated=tuple(generated[row]) if generated else (),
            nearest=self._nearest(distances[row], set(met[row].tolist())) if distances is not None else (),
            history=tuple(CatalogueItem(*self._names(item)) for item in history.items), read=lengths[row],
            notes=history.notes + self._notes(history, lengths[row]), label=self.run.stages[stage], stage=stage,
        ) for row, history in enumerate(histories)]

    def forget(self) -> None:
        """Frees what is remembered of earlier answers."""
        if isinstance(self._opened.model, LLMRecommender):
            self._opened.model.forget_answers()

    def item(self, item: int) -> CatalogueItem:
        """The item of an item id of RecBole's."""
        return CatalogueItem(*self._names(item))

    # ---- parts of an answer ----------------------------------------------------------------------
    @torch.no_grad()
    def _grounding(self, windows) -> tuple[Tensor | None, list[list[str]]]:
        """[b, n_items] distances to the answers (column 0 infinite), and the texts; None where none are grounded."""
        model = self._opened.model
        if not isinstance(model, BIGRec):
            return None, []
        on_device = windows.to(self._opened.config["device"])
        return -model.grounded_scores(on_device).float().cpu(), model.answer_beams(model.prompts(on_device))

    def _best(self, scores: Tensor, distances: Tensor | None, top: int) -> tuple[Recommendation, ...]:
        found, items = scores.sort(descending=True, stable=True)
        ranked = zip(items[:top].tolist(), found[:top].tolist(), strict=True)
        return tuple(
            Recommendation(*self._names(item), place, score, None if distances is None else float(distances[item]))
            for place, (item, score) in enumerate(ranked, 1) if score > -torch.inf)

    def _nearest(self, distances: Tensor, known: set[int]) -> tuple[NearItem, ...]:
        found, items = distances.sort(stable=True)
        return tuple(NearItem(*self._names(item), distance, item in known) for item, distance in zip(
            items[:NEAREST_SHOWN].tolist(), found[:NEAREST_SHOWN].tolist(), strict=True) if distance < torch.inf)

    def _notes(self, history: History, read: int) -> tuple[str, ...]:
        notes = []
        if read < len(history.items):
            notes.append(f"the model reads the last {read} of {len(history.items)} items")
        if not history.user and self._knows_users:
            notes.append(f"{self.run.model} also learns who a user is; a typed history is nobody's")
        return tuple(notes)

    @cached_property
    def _knows_users(self) -> bool:
        """Whether a traditional model scores the same history otherwise for another user."""
        if isinstance(self._opened.model, LLMRecommender):
            return False
        items = tuple(range(1, min(4, self._opened.dataset.item_num)))
        same_history = [History(items, tuple(map(float, items)), user) for user in (0, 1)]
        nobody, first = self._opened.scores(self.reader.windows(same_history), [])
        return not torch.equal(nobody, first)

    def _names(self, item: int) -> tuple[str, str, str]:
        data = self._opened.dataset
        catalog: Catalog | None = data.catalog
        token = str(data.field2id_token[data.iid_field][item])
        return (token, catalog.titles[item], catalog.categories[item]) if catalog else (token, "", "")


def load_recommender(run: str | Path, stage: str | None = None, data_path: str | Path | None = None,
                     llm_path: str | Path | None = None, trust_remote_code: bool = False) -> Recommender:
    """Opens a finished run for recommending.

    Args:
        run: its folder, such as `saved/BIGRec_SOFT-ml-100k-787d6629`.
        stage: whose weights answer, such as `sft`; the last by default. Calls may name another.
        data_path: folder that holds the data set, if it has moved.
        llm_path: folder of the language model, if it has moved.
        trust_remote_code: lets a language model run code of its own that the run trusted, too.

    Raises:
        UserError: there is no finished run, its files are gone, or data or language model are not those of the run.
    """
    from recbole_soft import plugin
    from recbole_soft.run_log import quiet_libraries

    plugin.install()
    quiet_libraries()
    return Recommender(read_run(run), stage, {
        "data_path": data_path and str(data_path), "llm_path": llm_path and str(llm_path),
        "trust_remote_code": trust_remote_code})

