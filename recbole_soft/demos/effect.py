"""Demonstrations by their effect: how much showing one lowers the loss of an answer that is already known.

Inspired by the abstract of LRGD (Xu et al., arXiv 2504.04386), which reads demonstrations as a gradient step and
measures their quality by how fast they make it converge. Only the abstract was at hand: this is our own measure, not
a reproduction. For a query whose history is h_1 .. h_n, the known answers lie in its own past:

    probe     h_1 .. h_{n-2} -> h_{n-1}        on which demonstrations are chosen
    held out  h_1 .. h_{n-1} -> h_n            on which changes to them are accepted or refused

    effect(D) = (loss(probe) - loss(probe | D)) / loss(probe),   loss = mean token loss under the frozen model
    score(D)  = mean over D and its perturbed copies of effect - spread * their standard deviation
                - length * len(D) / longest len - redundancy * max similarity to those already chosen

Stage 1 takes the near past windows of other users and picks greedily by score. Stage 2 offers a shorter version of
each (the later half of its history) and takes it only where it lowers the held-out loss; one demonstration always
stays as it was. Demonstrations that hold a known answer are left out: they would be chosen for copying it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from recbole_soft.demos.pool import Demonstration, DemonstrationPool, Query, own_past
from recbole_soft.demos.select import Nearest, Vectors

PERTURBED_SHARE = 0.1


@dataclass(frozen=True)
class Case:
    """A prompt and its known answer, whose loss is asked for."""

    history: tuple[str, ...]
    answer: str
    shown: tuple[Demonstration, ...] = ()


@dataclass(frozen=True)
class EffectSettings:
    """Weights and sizes of the choice by effect.

    Attributes:
        candidates: near windows that are looked at per query.
        copies: perturbed copies of each.
        spread, length, redundancy: weights of the penalties.
        seed: of the perturbations.
    """

    candidates: int = 16
    copies: int = 4
    spread: float = 0.5
    length: float = 0.05
    redundancy: float = 0.1
    seed: int = 0


Losses = Callable[[Sequence[Case]], list[float]]


class ByEffect(Nearest):
    """Demonstrations that make the known answers of the window's own past likelier.

    Args:
        losses: mean token losses of known answers under the frozen language model, one per case.
    """

    def __init__(self, count: int, pool: DemonstrationPool, vectors: Vectors, losses: Losses, settings: EffectSettings):
        super().__init__(count, pool, vectors)
        self._losses, self._settings = losses, settings

    def choose(self, queries: Sequence[Query]) -> list[list[Demonstration]]:
        queries = list(queries)
        rows = [self._without_answers(query, found)[: self._settings.candidates] for query, found in zip(
            queries, self.nearest_rows(queries, 4 * self._settings.candidates), strict=True)]
        scores = self._scores(queries, rows)
        chosen = [self._greedy(of_query) for of_query in scores]
        return self._shortened_where_better(queries, [list(reversed(picked)) for picked in chosen])

    def _without_answers(self, query: Query, rows: Sequence[int]) -> list[int]:
        known = {title.casefold() for title in query.history[-2:]}
        demonstrations = self._pool.demonstrations
        return [row for row in rows if not known & {
            title.casefold() for title in (*demonstrations[row].history, demonstrations[row].answer)}]

    # ---- stage 1: choose on the probe ------------------------------------------------------------
    def _scores(self, queries: Sequence[Query], rows: Sequence[Sequence[int]]) -> list[dict[int, float]]:
        """Per query, robust effect minus length penalty of each candidate row."""
        probes = [probe_of(query) for query in queries]
        cases, places = [], []
        for number, (probe, candidates) in enumerate(zip(probes, rows, strict=True)):
            if probe is None:
                continue
            cases.append(probe)
            places.append((number, None))
            for row in candidates:
                shown = self._pool.demonstrations[row]
                for copy in [shown, *perturbed(shown, self._settings.copies, self._settings.seed)]:
                    cases.append(replace(probe, shown=(copy,)))
                    places.append((number, row))
        bare: dict[int, float] = {}
        effects: list[dict[int, list[float]]] = [{row: [] for row in candidates} for candidates in rows]
        for (number, row), loss in zip(places, self._losses(cases), strict=True):
            if row is None:
                bare[number] = loss
            else:
                effects[number][row].append(relative_drop(bare[number], loss))
        return [{row: self._penalised(row, values, candidates) for row, values in of_query.items()}
                for of_query, candidates in zip(effects, rows, strict=True)]

    def _penalised(self, row: int, effects: Sequence[float], candidates: Sequence[int]) -> float:
        if not effects:
            return 0.0  # nothing is known yet: the order of similarity decides
        sizes = {other: _size(self._pool.demonstrations[other]) for other in candidates}
        return (fmean(effects) - self._settings.spread * pstdev(effects)
                - self._settings.length * sizes[row] / max(sizes.values()))

    def _greedy(self, scores: dict[int, float]) -> list[Demonstration]:
        """The best ones in the order of choice; of equal scores the more similar to the query."""
        chosen: list[int] = []
        left = list(scores)
        while left and len(chosen) < self.count:
            best = max(left, key=lambda row: scores[row] - self._settings.redundancy * self._pool.similarity(
                row, chosen))
            chosen.append(best)
            left.remove(best)
        return [self._pool.demonstrations[row] for row in chosen]

    # ---- stage 2: accept or refuse changes on what was held out ----------------------------------
    def _shortened_where_better(self, queries: Sequence[Query],
                                chosen: list[list[Demonstration]]) -> list[list[Demonstration]]:
        """Shorter versions where they lower the held-out loss; the last, best demonstration stays as it was."""
        for place in range(self.count - 1):
            trials = []
            for number, query in enumerate(queries):
                held_out = held_out_of(query)
                if held_out is not None and place < len(chosen[number]) - 1 and len(chosen[number][place].history) > 1:
                    changed = list(chosen[number])
                    changed[place] = shortened(changed[place])
                    trials.append((number, changed, held_out))
            cases = [replace(held_out, shown=tuple(shown)) for number, changed, held_out in trials
                     for shown in (chosen[number], changed)]
            losses = self._losses(cases)
            for (number, changed, _), before, after in zip(trials, losses[::2], losses[1::2], strict=True):
                if after < before:
                    chosen[number] = changed
        return chosen


def relative_drop(before: float, after: float) -> float:
    """(before - after) / before of two losses; 0 where there was nothing to lower."""
    return (before - after) / before if before > 0 else 0.0


def probe_of(query: Query) -> Case | None:
    """The known answer on which demonstrations are chosen: the last but one title, of short histories the last."""
    steps = own_past(query, 2)
    return Case(steps[0].history, steps[0].answer) if steps else None


def held_out_of(query: Query) -> Case | None:
    """The known answer on which changes are judged: the last title; None where it is the probe."""
    steps = own_past(query, 2)
    return Case(steps[1].history, steps[1].answer) if len(steps) == 2 else None


def perturbed(shown: Demonstration, copies: int, seed: int) -> list[Demonstration]:
    """Copies with a tenth of the history's titles left out (at least one, never all) and two neighbours swapped.

    They depend on seed and window alone. A history of one title has no other version: it is repeated.
    """
    found = []
    for number in range(copies):
        random_of_copy = random.Random(f"{seed}-{shown.window_id}-{number}")
        titles = list(shown.history)
        for _ in range(max(1, round(PERTURBED_SHARE * len(titles)))):
            if len(titles) > 1:
                titles.pop(random_of_copy.randrange(len(titles)))
        if len(titles) > 1:
            first = random_of_copy.randrange(len(titles) - 1)
            titles[first], titles[first + 1] = titles[first + 1], titles[first]
        found.append(replace(shown, history=tuple(titles)))
    return found


def shortened(shown: Demonstration) -> Demonstration:
    """The same demonstration with the later half of its history."""
    return replace(shown, history=shown.history[len(shown.history) // 2:])


def _size(shown: Demonstration) -> int:
    """Characters of a demonstration."""
    return sum(map(len, shown.history)) + len(shown.answer)
