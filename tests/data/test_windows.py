"""Windows against a loop written from the protocol, and the properties that keep the future out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.data.windows import first_positions, history_matrix, make_windows, met_until, sample_rows

lengths = st.lists(st.integers(1, 25), min_size=1, max_size=6)


def grouped_users(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)) + 1, counts)


def windows_by_the_letter(counts: list[int], width: int) -> list[tuple[int, int]]:
    """SOFT paper: 11 consecutive interactions slide with stride 1; 11 or fewer give one window of all."""
    found, offset = [], 0
    for count in counts:
        if 2 <= count <= width + 1:
            found.append((offset, offset + count - 1))
        elif count > width + 1:
            found += [(offset + start, offset + start + width) for start in range(count - width)]
        offset += count
    return found


@settings(max_examples=200, deadline=None)
@given(lengths, st.integers(1, 10))
def test_exact_windows_are_those_of_the_paper(counts, width):
    windows = make_windows(grouped_users(counts), width, "exact")
    got = list(zip(windows.start.tolist(), windows.target.tolist(), strict=True))
    assert got == windows_by_the_letter(counts, width)


@settings(max_examples=100, deadline=None)
@given(lengths, st.integers(1, 10))
def test_prefix_windows_are_recboles(counts, width):
    windows = make_windows(grouped_users(counts), width, "prefix")
    expected, offset = [], 0
    for count in counts:
        expected += [(max(offset, offset + i - width), offset + i) for i in range(1, count)]
        offset += count
    assert list(zip(windows.start.tolist(), windows.target.tolist(), strict=True)) == expected


@settings(max_examples=100, deadline=None)
@given(lengths, st.integers(1, 10), st.sampled_from(["exact", "prefix"]))
def test_no_window_mixes_users_and_every_history_precedes_its_target(counts, width, kind):
    users = grouped_users(counts)
    windows = make_windows(users, width, kind)
    for start, target in zip(windows.start, windows.target, strict=True):
        assert set(users[start: target + 1]) == {users[target]}
        assert 1 <= target - start <= width


def test_histories_are_oldest_first_and_padded_on_the_right():
    items = np.array([7, 8, 9, 5, 6])
    windows = make_windows(np.array([1, 1, 1, 2, 2]), 2, "prefix")
    assert history_matrix(items, windows, 2).tolist() == [[7, 0], [7, 8], [5, 0]]


def test_first_positions():
    assert first_positions(np.array([3, 3, 1, 1, 1, 2])).tolist() == [0, 0, 2, 2, 2, 5]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_samples_are_distinct_repeatable_and_no_larger_than_asked(count, size, seed):
    rows = sample_rows(count, size, seed)
    assert len(set(rows)) == len(rows) == min(count, size)
    assert (rows == sample_rows(count, size, seed)).all() and rows.max() < count


def test_sample_is_the_one_pandas_draws():
    import pandas as pd

    assert sample_rows(1000, 50, 42).tolist() == sorted(pd.Series(range(1000)).sample(50, random_state=42))


@settings(max_examples=100, deadline=None)
@given(lengths, st.data())
def test_nothing_after_a_users_last_target_was_met(counts, data):
    users = grouped_users(counts)
    targets = data.draw(st.lists(st.integers(0, len(users) - 1), max_size=12))
    expected = {}
    for position, user in enumerate(users.tolist()):
        if any(users[target] == user and position <= target for target in targets):
            expected.setdefault(user, []).append(position)
    met = met_until(users, first_positions(users), np.array(targets, dtype=np.int64))
    assert {user: list(range(stretch.start, stretch.stop)) for user, stretch in met.items()} == expected
    assert list(met) == sorted(met)
