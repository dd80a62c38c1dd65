"""Ways to choose demonstrations: fixed, own past, nearest, aggregated (and `effect`, in its own file).

`self` follows LLMRank's in-context prompts (Hou et al., ECIR 2024), `fixed`, `nearest` and `aggregated` LLMSRec-Syn
(Wang and Lim, NAACL Findings 2024). All of them see a query without its target and the pool of training windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from recbole_soft.artifacts import content_key
from recbole_soft.demos.pool import Demonstration, DemonstrationPool, Query, own_past

Vectors = Callable[[Sequence[tuple[str, ...]]], Tensor]


class Selector:
    """Chooses at most `count` demonstrations per query, in the order in which the prompt shows them.

    The most helpful comes last, next to the question; where the prompt has no room, the first are left out.
    """

    def __init__(self, count: int):
        self.count = count
        self._chosen: dict[Query, list[Demonstration]] = {}

    def select(self, queries: Sequence[Query]) -> list[list[Demonstration]]:
        """Demonstrations of every query; a query is decided once."""
        unknown = [query for query in dict.fromkeys(queries) if query not in self._chosen]
        if unknown:
            self._chosen.update(zip(unknown, self.choose(unknown), strict=True))
        return [self._chosen[query] for query in queries]

    def choose(self, queries: Sequence[Query]) -> list[list[Demonstration]]:
        """Demonstrations of queries that were not asked before."""
        raise NotImplementedError


class OwnPast(Selector):
    """The last steps of the window's own history."""

    def choose(self, queries: Sequence[Query]) -> list[list[Demonstration]]:
        return [own_past(query, self.count) for query in queries]


class Fixed(Selector):
    """The same demonstrations for every query, drawn once; a query that is earlier gets the next ones drawn.

    The draw orders windows by a hash of seed and window, so later windows cannot change which earlier ones are taken.
    """

    def __init__(self, count: int, pool: DemonstrationPool, seed: int):
        super().__init__(count)
        self._pool = pool
        self._order = sorted(range(len(pool)), key=lambda row: content_key(
            seed=seed, window=pool.demonstrations[row].window_id))

    def choose(self, queries: Sequence[Query]) -> list[list[Demonstration]]:
        found = []
        for query in queries:
            allowed = self._pool.past(query).tolist()
            rows = [row for row in self._order if allowed[row]][: self.count]
            found.append([self._pool.demonstrations[row] for row in reversed(rows)])
        return found


class Nearest(Selector):
    """Windows of other users with the most similar histories, the most similar last."""

    def __init__(self, count: int, pool: DemonstrationPool, vectors: Vectors):
        super().__init__(count)
        self._pool, self._vectors = pool, vectors

    def choose(self, queries: Sequence[Query]) -> list[list[Demonstration]]:
        found = self.nearest_rows(queries, self.count)
        return [[self._pool.demonstrations[row] for row in reversed(rows)] for rows in found]

    def nearest_rows(self, queries: Sequence[Query], count: int) -> list[list[int]]:
        """Rows of the pool per query, the most similar first."""
        vectors = self._vectors([query.history for query in queries])
        return [self._pool.nearest(query, vector, count) for query, vector in zip(queries, vectors, strict=True)]


class Aggregated(Nearest):
    """Each demonstration is made of several near windows; the block of the nearest comes last.

    Args:
        merged: windows per demonstration.
        longest: titles in a demonstration's history.
    """

    def __init__(self, count: int, pool: DemonstrationPool, vectors: Vectors, merged: int, longest: int):
        super().__init__(count, pool, vectors)
        self._merged, self._longest = merged, longest

    def choose(self, queries: Sequence[Query]) -> list[list[Demonstration]]:
        found = []
        for rows in self.nearest_rows(queries, self.count * self._merged):
            windows = [self._pool.demonstrations[row] for row in rows]
            blocks = [windows[first: first + self._merged] for first in range(0, len(windows), self._merged)]
            found.append([merge(block, self._longest) for block in reversed(blocks)])
        return found


def merge(windows: Sequence[Demonstration], longest: int) -> Demonstration:
    """One demonstration of several: their histories interleaved from the latest title backwards.

    The answer is the one that most of them have (of equals, the nearest window's), because an answer is one title;
    it is left out of the history, as is every repeated title.

    Args:
        windows: the nearest first.
        longest: titles to keep.
    """
    answer = Counter(window.answer for window in windows).most_common(1)[0][0]
    latest_first: dict[str, None] = {}
    for step in range(max(len(window.history) for window in windows)):
        for window in windows:
            if step < len(window.history) and window.history[-1 - step] != answer:
                latest_first.setdefault(window.history[-1 - step])
    history = tuple(reversed(list(latest_first)[:longest])) or windows[0].history
    return Demonstration(history, answer, max(window.time for window in windows), windows[0].window_id)
