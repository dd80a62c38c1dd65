"""Histories in the words of a user of the package (titles, item ids, a user id) as the run's items, and as windows.

A history that somebody types belongs to nobody in the data: user 0, and later than every interaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_soft.data.dataset import SoftDataset
from recbole_soft.errors import DataError, SettingError
from recbole_soft.recommend.title_match import TitleMatcher, UnknownTitleError

_PIPE = re.compile(r"\\([\\|])|\|")


@dataclass(frozen=True)
class History:
    """What somebody has had, oldest first.

    Attributes:
        items: item ids of everything.
        times: when, as places in the order of all interactions.
        user: RecBole's user id; 0 for somebody who is not in the data.
        notes: what was understood otherwise than it was written.
    """

    items: tuple[int, ...]
    times: tuple[float, ...]
    user: int = 0
    notes: tuple[str, ...] = ()


class HistoryReader:
    """Makes histories of one data set.

    Args:
        dataset: the data of a run.

    Attributes:
        titles: finds titles; None where the data have none.
    """

    def __init__(self, dataset: SoftDataset):
        self._dataset = dataset
        self._now = float(dataset.sequence_times.max()) + 1
        self.titles = TitleMatcher(dataset.catalog.titles) if dataset.catalog else None

    @property
    def users(self) -> list[str]:
        """Ids of all users of the data."""
        return [str(token) for token in self._dataset.field2id_token[self._dataset.uid_field][1:]]

    def read(self, titles: Sequence[str] | None = None, item_ids: Sequence[str] | None = None,
             user_id: str | None = None) -> History:
        """The history of exactly one of the three.

        Raises:
            UserError: none or several are given, one is empty, or something is not in the data; all unknown titles
                or ids are named at once.
        """
        given = [name for name, value in (("titles", titles), ("item_ids", item_ids), ("user_id", user_id))
                 if value is not None]
        if len(given) != 1:
            raise SettingError("a history is one of titles, item ids and a user id; "
                               f"given: {', '.join(given) or 'none'}", where="history", remedy="give exactly one")
        if user_id is not None:
            return self._of_user(str(user_id))
        words = titles if titles is not None else item_ids
        if isinstance(words, (str, bytes)) or not isinstance(words, Sequence):
            raise SettingError(f"{given[0]} must be a list, not {words!r}", where="history",
                               remedy=f"for instance {given[0]}=[{words!r}]")
        if not words:
            raise DataError("the history is empty", where="history", remedy="give at least one item")
        return self._of_titles(words) if titles is not None else self._of_items(words)

    def _of_user(self, token: str) -> History:
        ids = self._dataset.field2token_id[self._dataset.uid_field]
        user = ids.get(token, 0) if token != "[PAD]" else 0
        if not user:
            some = ", ".join(f"'{known}'" for known in list(ids)[1:4])
            raise DataError(f"there is no user '{token}' among the run's {len(ids) - 1:,} users (some were left out by "
                            "user_inter_num_interval)", where="user_id", remedy=f"for instance {some}")
        items, times = self._dataset.sequence_of(user)
        return History(tuple(items.tolist()), tuple(times.tolist()), user)

    def _of_items(self, tokens: Sequence[str]) -> History:
        items = [self._dataset.item_of(str(token)) for token in tokens]
        if unknown := [str(token) for token, item in zip(tokens, items, strict=True) if item is None]:
            known = ", ".join(f"'{token}'" for token in self._dataset.field2id_token[self._dataset.iid_field][1:4])
            raise DataError(f"not in the run's catalogue: {', '.join(map(repr, unknown))}", where="item_ids",
                            remedy=f"ids are those of the data set's files, for instance {known}; items with too few "
                                   "interactions were left out (item_inter_num_interval)")
        return self._typed(items)

    def _of_titles(self, titles: Sequence[str]) -> History:
        if self.titles is None:
            raise DataError("the run's data set has no titles", where="history", remedy="give item ids: item_ids")
        found, mistakes = [], []
        for title in titles:
            try:
                found.append(self.titles.find(str(title)))
            except UnknownTitleError as error:
                mistakes.append(self._explained(str(title), error))
        if mistakes:
            raise mistakes[0] if len(mistakes) == 1 else DataError(
                f"{len(mistakes)} titles are not clear:\n" + "\n".join(f"{error.what}: {error.remedy}"
                                                                       for error in mistakes), where="history")
        return self._typed([match.item for match in found], tuple(match.note for match in found if match.note))

    def _explained(self, title: str, error: UnknownTitleError) -> UnknownTitleError:
        if not self._dataset.was_left_out(title.strip()):
            return error
        return UnknownTitleError(f"'{title}' has too few interactions: the run left it out "
                                 f"(item_inter_num_interval={self._dataset.config['item_inter_num_interval']})",
                                 where="history", remedy="leave it out of the history")

    def _typed(self, items: Sequence[int], notes: tuple[str, ...] = ()) -> History:
        return History(tuple(items), tuple(self._now - len(items) + place for place in range(len(items))), notes=notes)

    def windows(self, histories: Sequence[History]) -> Interaction:
        """The last items of histories as windows without a target, later than everything in the data."""
        data, width = self._dataset, self._dataset.max_item_list_len
        items = np.zeros((len(histories), width), dtype=np.int64)
        times = np.zeros((len(histories), width), dtype=np.float32)
        lengths = [min(width, len(history.items)) for history in histories]
        for row, (history, length) in enumerate(zip(histories, lengths, strict=True)):
            items[row, :length], times[row, :length] = history.items[-length:], history.times[-length:]
        return Interaction({
            data.uid_field: torch.tensor([history.user for history in histories]),
            getattr(data, f"{data.iid_field}_list_field"): torch.from_numpy(items),
            getattr(data, f"{data.time_field}_list_field"): torch.from_numpy(times),
            data.item_list_length_field: torch.tensor(lengths),
            data.time_field: torch.full((len(histories),), self._now),
        })

    def met(self, histories: Sequence[History], rule: str) -> list[np.ndarray]:
        """Per history, item ids that are no candidates under `mask_history`."""
        width = {"none": 0, "window": self._dataset.max_item_list_len}.get(rule)
        return [np.array(history.items if width is None else history.items[-width:] if width else (), dtype=np.int64)
                for history in histories]


def split_words(text: str) -> list[str]:
    """`A|B` as ['A', 'B']; `\\|` is a bar and `\\\\` a backslash inside a title. Empty parts are left out.

    A JSON list of strings is taken as it is.
    """
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            listed = None  # a title in brackets, such as [REC]
        if isinstance(listed, list) and all(isinstance(entry, (str, int)) for entry in listed):
            return [str(entry) for entry in listed]
    parts, last = [""], 0
    for match in _PIPE.finditer(text):
        parts[-1] += text[last: match.start()] + (match[1] or "")
        if match[1] is None:
            parts.append("")
        last = match.end()
    parts[-1] += text[last:]
    return [part.strip() for part in parts if part.strip()]
