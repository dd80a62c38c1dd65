"""Demonstrations: never from the future, the same every time, and what each way of choosing takes."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from recbole_soft.demos.effect import (
    ByEffect,
    Case,
    EffectSettings,
    held_out_of,
    perturbed,
    probe_of,
    relative_drop,
    shortened,
)
from recbole_soft.demos.pool import Demonstration, DemonstrationPool, Query, own_past
from recbole_soft.demos.select import Aggregated, Fixed, Nearest, OwnPast, merge

MODES = ("self", "fixed", "nearest", "aggregated", "effect")
ITEMS = 30


def vectors(histories):
    """A vector per history: titles are numbers, each with a random direction of its own."""
    table = torch.randn(ITEMS + 1, 8, generator=torch.Generator().manual_seed(0))
    return normalize(torch.stack([table[[int(title) for title in history]].mean(0) for history in histories]))


def losses(cases: list[Case]) -> list[float]:
    """A loss that depends on everything a prompt shows, without rhyme or reason."""
    return [random.Random(repr((case.history, case.answer, [(d.history, d.answer) for d in case.shown]))).uniform(1, 2)
            for case in cases]


def make(mode, windows, answers, count=2):
    pool = DemonstrationPool(windows, answers, vectors([window.history for window in windows]))
    return {
        "self": lambda: OwnPast(count), "fixed": lambda: Fixed(count, pool, 0),
        "nearest": lambda: Nearest(count, pool, vectors), "aggregated": lambda: Aggregated(count, pool, vectors, 2, 5),
        "effect": lambda: ByEffect(count, pool, vectors, losses, EffectSettings(candidates=4, copies=2)),
    }[mode]()


histories = st.lists(st.integers(1, ITEMS), min_size=1, max_size=6).map(lambda items: tuple(map(str, items)))


@st.composite
def worlds(draw):
    """Training windows at distinct times, their answers, and a query somewhere among them."""
    size = draw(st.integers(1, 12))
    times = draw(st.permutations(range(size)))
    windows = [Query(number, draw(st.integers(0, 3)), float(2 * times[number]), draw(histories))
               for number in range(size)]
    answers = [str(draw(st.integers(1, ITEMS))) for _ in windows]
    number = draw(st.integers(0, size - 1))
    asked = draw(st.sampled_from([windows[number], Query(99, draw(st.integers(0, 3)), 2.0 * size, draw(histories))]))
    return windows, answers, asked


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_demonstrations_are_strictly_earlier_and_never_the_window_itself(mode, world):
    windows, answers, asked = world
    answer_of = {window.window_id: answer for window, answer in zip(windows, answers, strict=True)}
    for shown in make(mode, windows, answers).select([asked])[0]:
        assert shown.time < asked.time
        if mode == "self":
            place = len(shown.history)
            assert asked.history[:place] == shown.history and asked.history[place] == shown.answer
        else:
            assert shown.window_id != asked.window_id
            past = [window for window in windows if window.time < asked.time]
            assert shown.answer in {answer_of[window.window_id] for window in past}
            assert set(shown.history) <= {title for window in past for title in window.history}


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(world=worlds())
def test_the_future_changes_nothing(mode, world):
    """The same choice when everything from the query's time on is taken away, or has other answers."""
    windows, answers, asked = world
    past = [(window, answer) for window, answer in zip(windows, answers, strict=True) if window.time < asked.time]
    chosen = make(mode, windows, answers).select([asked])
    other = [answer if window.time < asked.time else "7" for window, answer in zip(windows, answers, strict=True)]
    assert make(mode, windows, other).select([asked]) == chosen
    if past:
        assert make(mode, *map(list, zip(*past, strict=True))).select([asked]) == chosen
    else:
        assert chosen == [[]] or mode == "self"


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=20, deadline=None)
@given(world=worlds())
def test_the_choice_does_not_depend_on_company_or_repetition(mode, world):
    windows, answers, asked = world
    alone = make(mode, windows, answers).select([asked])[0]
    selector = make(mode, windows, answers)
    assert selector.select([*windows, asked, asked])[-2:] == [alone, alone]
    assert selector.select([asked]) == [alone] and len(alone) <= 2


def test_own_past_ends_with_the_latest_step():
    query = Query(5, 0, 10.0, ("a", "b", "c"))
    assert [(shown.history, shown.answer) for shown in own_past(query, 2)] == [(("a",), "b"), (("a", "b"), "c")]
    assert own_past(Query(5, 0, 10.0, ("a",)), 2) == []


def test_nearest_takes_other_users_and_puts_the_most_similar_last():
    windows = [Query(0, 1, 0.0, ("1", "2")), Query(1, 2, 1.0, ("1", "2", "3")), Query(2, 3, 2.0, ("20",)),
               Query(3, 9, 3.0, ("1", "2"))]
    asked = Query(9, 9, 9.0, ("1", "2"))
    chosen = make("nearest", windows, ["4", "5", "6", "7"]).select([asked])[0]
    assert [shown.window_id for shown in chosen] == [1, 0]


def test_fixed_shows_everybody_the_same():
    windows = [Query(number, number, float(number), ("1",)) for number in range(9)]
    first, second = make("fixed", windows, ["2"] * 9).select([Query(50, 1, 99.0, ("3",)), Query(51, 2, 98.0, ("4",))])
    assert first == second and len(first) == 2


def test_merged_histories_are_interleaved_from_the_latest_backwards_without_the_answer():
    windows = [Demonstration(("a", "b", "c"), "x", 1.0, 1), Demonstration(("x", "d", "b"), "y", 5.0, 2),
               Demonstration(("e",), "y", 2.0, 3)]
    assert merge(windows, 4) == Demonstration(("d", "e", "b", "c"), "y", 5.0, 1)
    assert merge(windows[:2], 9).answer == "x"


# ---- effect ------------------------------------------------------------------------------------------
def planted(cases: list[Case], helpful: str = "9") -> list[float]:
    """A model that answers better when a demonstration with the helpful answer is shown."""
    return [1.0 if any(shown.answer == helpful for shown in case.shown) else 2.0 for case in cases]


def test_a_planted_helpful_demonstration_is_chosen_though_it_is_the_least_similar():
    windows = [Query(number, number + 1, float(number), ("1", "2", str(number + 3))) for number in range(7)]
    answers = ["10", "11", "12", "13", "14", "15", "16"]
    asked = Query(99, 99, 99.0, ("1", "2", "25", "26"))
    pool = DemonstrationPool(windows, answers, vectors([window.history for window in windows]))
    last = pool.nearest(asked, vectors([asked.history])[0], 7)[-1]
    answers[last] = "9"
    pool = DemonstrationPool(windows, answers, vectors([window.history for window in windows]))
    chosen = ByEffect(2, pool, vectors, planted, EffectSettings()).select([asked])[0]
    assert chosen[-1].answer == "9", "the best demonstration stands next to the question"


def test_effect_is_measured_on_the_own_past_and_never_on_the_target():
    asked = []

    def watched(cases):
        asked.extend(cases)
        return planted(cases)

    windows = [Query(number, number, float(number), ("1", "2")) for number in range(3)]
    query = Query(9, 9, 9.0, ("3", "4", "5"))
    pool = DemonstrationPool(windows, ["6", "7", "8"], vectors([window.history for window in windows]))
    ByEffect(2, pool, vectors, watched, EffectSettings(copies=1)).select([query])
    assert {(case.history, case.answer) for case in asked} == {(("3",), "4"), (("3", "4"), "5")}
    assert (probe_of(query), held_out_of(query)) == (Case(("3",), "4"), Case(("3", "4"), "5"))
    assert probe_of(Query(9, 9, 9.0, ("3",))) is None and held_out_of(Query(9, 9, 9.0, ("3", "4"))) is None


def test_demonstrations_that_hold_a_known_answer_are_left_out():
    windows = [Query(0, 0, 0.0, ("1", "5")), Query(1, 1, 1.0, ("1", "2")), Query(2, 2, 2.0, ("1", "3"))]
    pool = DemonstrationPool(windows, ["8", "6", "4"], vectors([window.history for window in windows]))
    chosen = ByEffect(2, pool, vectors, planted, EffectSettings()).select([Query(9, 9, 9.0, ("3", "4", "5"))])[0]
    assert [shown.window_id for shown in chosen] == [1]


def test_score_is_mean_effect_less_spread_and_length():
    """The choice by score equals a loop written from the formula."""
    windows = [Query(number, number, float(number), tuple(map(str, range(1, 3 + number)))) for number in range(5)]
    answers = ["11", "12", "13", "14", "15"]
    query, weights = Query(9, 9, 9.0, ("20", "21", "22")), EffectSettings(candidates=5, copies=3, redundancy=0.0)
    pool = DemonstrationPool(windows, answers, vectors([window.history for window in windows]))
    probe = probe_of(query)
    scores = []
    for shown in pool.demonstrations:
        effects = []
        for copy in [shown, *perturbed(shown, 3, 0)]:
            before, after = losses([probe, Case(probe.history, probe.answer, (copy,))])
            effects.append((before - after) / before)
        mean = sum(effects) / 4
        spread = (sum((effect - mean) ** 2 for effect in effects) / 4) ** 0.5
        size = len("".join(shown.history) + shown.answer)
        longest = max(len("".join(other.history) + other.answer) for other in pool.demonstrations)
        scores.append(mean - 0.5 * spread - 0.05 * size / longest)
    chosen = ByEffect(1, pool, vectors, losses, weights).select([query])[0]
    assert [shown.window_id for shown in chosen] == [scores.index(max(scores))]


def test_redundancy_prefers_what_was_not_said_yet():
    windows = [Query(0, 0, 0.0, ("1", "2")), Query(1, 1, 1.0, ("1", "2")), Query(2, 2, 2.0, ("28", "29"))]
    pool = DemonstrationPool(windows, ["11", "12", "13"], vectors([window.history for window in windows]))
    query = Query(9, 9, 9.0, ("1", "2", "3"))
    windows_of = {}
    for weight in (0.0, 5.0):
        # "2" and "1" are known answers only of other histories here: nothing is filtered but copies of 2 and 3.
        selector = ByEffect(2, pool, vectors, lambda cases: [1.0] * len(cases),
                            EffectSettings(length=0.0, redundancy=weight))
        selector._without_answers = lambda query, rows: list(rows)
        windows_of[weight] = {shown.window_id for shown in selector.select([query])[0]}
    assert windows_of == {0.0: {0, 1}, 5.0: {0, 2}}


def test_stage_two_takes_a_change_only_where_the_held_out_answer_gains_and_keeps_the_best_as_it_was():
    windows = [Query(number, number, float(number), ("1", "2", "3", "4")) for number in range(3)]
    pool = DemonstrationPool(windows, ["11", "12", "13"], vectors([window.history for window in windows]))
    query = Query(9, 9, 9.0, ("20", "21", "22"))

    def choose(gain):
        def short_is_better(cases):
            return [2.0 - gain * sum(len(shown.history) < 3 for shown in case.shown) for case in cases]
        return ByEffect(3, pool, vectors, short_is_better, EffectSettings(copies=0)).select([query])[0]

    assert [len(shown.history) for shown in choose(0.1)] == [2, 2, 4]
    assert [len(shown.history) for shown in choose(-0.1)] == [4, 4, 4]


@settings(max_examples=50, deadline=None)
@given(history=histories, seed=st.integers(0, 5))
def test_perturbed_copies_keep_the_answer_and_some_of_the_history(history, seed):
    shown = Demonstration(history, "x", 1.0, 3)
    copies = perturbed(shown, 4, seed)
    assert copies == perturbed(shown, 4, seed) and len(copies) == 4
    for copy in copies:
        assert copy.answer == "x" and copy.time == 1.0 and set(copy.history) <= set(history)
        assert len(copy.history) == max(1, len(history) - 1)
    assert shortened(shown).history == history[len(history) // 2:]


def test_relative_drop():
    assert relative_drop(2.0, 1.5) == 0.25 and relative_drop(2.0, 3.0) == -0.5 and relative_drop(0.0, 1.0) == 0.0
