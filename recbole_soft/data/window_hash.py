"""Hash of the windows of a split in terms of tokens, made of whole arrays.

The bytes that are hashed are the lines `user TAB history item TAB ... TAB target NEWLINE` in UTF-8, padding included.
They have never changed, so records of earlier runs can be compared with those of later ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

CELLS_AT_ONCE = 1 << 18


def hash_of_windows(
    users: np.ndarray, histories: np.ndarray, targets: np.ndarray,
    user_tokens: Sequence[str], item_tokens: Sequence[str],
) -> str:
    """16 hexadecimal digits.

    Args:
        users, targets: [n] ids. histories: [n, length] padded item ids.
        user_tokens, item_tokens: token by id.
    """
    # Each token with what comes after it: users and history items a tab, targets the end of the line.
    texts = _Texts([f"{token}\t" for token in user_tokens] + [f"{token}\t" for token in item_tokens]
                   + [f"{token}\n" for token in item_tokens])
    first_item, first_target = len(user_tokens), len(user_tokens) + len(item_tokens)
    digest = hashlib.sha256()
    rows_at_once = max(1, CELLS_AT_ONCE // (histories.shape[1] + 2))
    for first in range(0, len(users), rows_at_once):
        rows = slice(first, first + rows_at_once)
        digest.update(texts.joined(np.column_stack(
            [users[rows], histories[rows] + first_item, targets[rows] + first_target]).ravel()))
    return digest.hexdigest()[:16]


class _Texts:
    """Texts by number, ready to be put after each other many at a time."""

    def __init__(self, texts: list[str]):
        encoded = [text.encode() for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._starts = np.cumsum(self._lengths) - self._lengths

    def joined(self, numbers: np.ndarray) -> np.ndarray:
        """[bytes] uint8: the texts of `numbers` ([n]) after each other."""
        lengths = self._lengths[numbers]
        ends = np.cumsum(lengths)
        # Byte p of the result is byte p + shift of all texts, with one shift per text.
        shifts = self._starts[numbers] - (ends - lengths)
        places = np.repeat(shifts, lengths)
        places += np.arange(len(places))
        return self._bytes[places]
