"""Windows to be answered, demonstrations to show, and the rule that a demonstration lies in the window's past.

Time is the protocol's order of interactions (equal times by place in the file). A demonstration is in the past of a
window when its own answer is strictly earlier than the window's target; so is then all of its history. A query holds
no target, so no selector can look at one. Knows nothing of prompts, models or how similarity is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Titles = tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """A window to be answered.

    Attributes:
        window_id: the data set's own id.
        user: RecBole's user id.
        time: when the (unknown) target happens, as an order.
        history: titles, oldest first.
    """

    window_id: int
    user: int
    time: float
    history: Titles


@dataclass(frozen=True)
class Demonstration:
    """A history and the title that followed it.

    Attributes:
        history: titles, oldest first.
        answer: the next title.
        time: when the answer happened, as an order; of several windows put together, the latest.
        window_id: the window it was made from.
    """

    history: Titles
    answer: str
    time: float
    window_id: int


class DemonstrationPool:
    """Training windows that may be shown.

    Args:
        windows: the training windows.
        answers: their true next titles.
        vectors: [n, d] vectors of their histories, of length 1; None where no selector asks for similarity.
    """

    def __init__(self, windows: Sequence[Query], answers: Sequence[str], vectors: Tensor | None = None):
        self.demonstrations = [Demonstration(window.history, answer, window.time, window.window_id)
                               for window, answer in zip(windows, answers, strict=True)]
        self._times = torch.tensor([window.time for window in windows], dtype=torch.float64)
        self._users = torch.tensor([window.user for window in windows])
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self.demonstrations)

    def past(self, query: Query, other_users: bool = False) -> Tensor:
        """[n] whether a demonstration is strictly earlier than the query's target.

        Args:
            other_users: leave out those of the query's own user as well.
        """
        allowed = self._times < query.time
        return allowed & (self._users != query.user) if other_users else allowed

    def nearest(self, query: Query, vector: Tensor, count: int) -> list[int]:
        """Rows of the past demonstrations of other users whose history is most similar, the most similar first.

        Args:
            vector: [d] vector of the query's history, of length 1.
            count: at most so many; of equal ones the earlier row.
        """
        rows = self.past(query, other_users=True).nonzero().squeeze(1)
        similarity = self._vectors[rows.to(self._vectors.device)] @ vector
        order = similarity.argsort(descending=True, stable=True)[:count]
        return rows[order.cpu()].tolist()

    def similarity(self, row: int, others: Sequence[int]) -> float:
        """Largest cosine between a demonstration's history and those of others; 0 without others."""
        return float((self._vectors[list(others)] @ self._vectors[row]).max()) if others else 0.0


def own_past(query: Query, count: int) -> list[Demonstration]:
    """The user's own last steps as demonstrations, the latest last: history[:-1] led to history[-1], and so on.

    The answers are titles of the history, so they are earlier than the target. When exactly is not known here; what is
    noted as their time keeps them in order, just before the target.
    """
    length = len(query.history)
    ends = range(max(1, length - count), length)
    return [Demonstration(query.history[:end], query.history[end], query.time - (length - end) / (length + 1),
                          query.window_id) for end in ends]
