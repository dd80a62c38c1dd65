"""The hash of windows is that of their lines, as it always was."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.data import window_hash
from recbole_soft.data.window_hash import hash_of_windows

TOKENS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@given(TOKENS, TOKENS, st.integers(0, 12), st.integers(1, 5), st.integers(0, 99), st.sampled_from([1, 100, 1000]),
       st.sampled_from([3, 64]))
def test_it_is_the_hash_of_the_lines(users, items, count, length, seed, at_once, widest):
    rng = np.random.default_rng(seed)
    who, target = rng.integers(0, len(users), count), rng.integers(0, len(items), count)
    history = rng.integers(0, len(items), (count, length))
    lines = ["\t".join([users[user], *(items[item] for item in row), items[last]]) + "\n"
             for user, row, last in zip(who, history, target, strict=True)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(window_hash, "BYTES_AT_ONCE", at_once)
        patched.setattr(window_hash, "WIDEST_CELL", widest)
        found = hash_of_windows(who, history, target, users, items)
    assert found == hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
