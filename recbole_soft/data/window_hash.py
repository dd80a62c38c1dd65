"""Hash of the windows of a split in terms of tokens, made of whole arrays.

The bytes that are hashed are the lines `user TAB history item TAB ... TAB target NEWLINE` in UTF-8, padding included.
They have never changed, so records of earlier runs can be compared with those of later ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

BYTES_AT_ONCE = 1 << 22
WIDEST_CELL = 64


def hash_of_windows(
    users: np.ndarray, histories: np.ndarray, targets: np.ndarray,
    user_tokens: Sequence[str], item_tokens: Sequence[str],
) -> str:
    """16 hexadecimal digits.

    Args:
        users, targets: [n] ids. histories: [n, length] padded item ids.
        user_tokens, item_tokens: token by id.
    """
    widest = max(len(token.encode()) for tokens in (user_tokens, item_tokens) for token in tokens)
    if widest > WIDEST_CELL:
        return _hash_of_lines(users, histories, targets, user_tokens, item_tokens)
    # Each token with what comes after it: users and history items a tab, targets the end of the line.
    columns = ((_Texts(user_tokens, "\t"), users[:, None]), (_Texts(item_tokens, "\t"), histories),
               (_Texts(item_tokens, "\n"), targets[:, None]))
    digest = hashlib.sha256()
    rows_at_once = max(1, BYTES_AT_ONCE // sum(texts.width * numbers.shape[1] for texts, numbers in columns))
    for first in range(0, len(users), rows_at_once):
        parts = [texts.cells(numbers[first: first + rows_at_once]) for texts, numbers in columns]
        cells, is_text = (np.hstack(arrays) for arrays in zip(*parts, strict=True))
        digest.update(cells[is_text])
    return digest.hexdigest()[:16]


def _hash_of_lines(
    users: np.ndarray, histories: np.ndarray, targets: np.ndarray,
    user_tokens: Sequence[str], item_tokens: Sequence[str],
) -> str:
    """The same, a window after the other: one long id would make every cell as wide."""
    digest = hashlib.sha256()
    for user, history, target in zip(users.tolist(), histories, targets.tolist(), strict=True):
        items = [item_tokens[item] for item in (*history.tolist(), target)]
        digest.update(("\t".join([user_tokens[user], *items]) + "\n").encode())
    return digest.hexdigest()[:16]


class _Texts:
    """Texts by number, each in a cell as wide as the longest.

    Attributes:
        width: bytes of a cell.
    """

    def __init__(self, tokens: Sequence[str], end: str):
        texts = [f"{token}{end}".encode() for token in tokens]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.width = int(lengths.max())
        # A cell is one value to numpy, which takes many of them faster than rows of a matrix.
        self._cells = np.array(texts, dtype=f"S{self.width}").view(f"V{self.width}")
        self._is_text = (np.arange(self.width) < lengths[:, None]).view(f"V{self.width}").ravel()

    def cells(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, k * width] uint8 the cells of `numbers` ([n, k]) side by side, and bool which of the bytes are text."""
        shape = len(numbers), numbers.shape[1] * self.width
        return (self._cells[numbers].view(np.uint8).reshape(shape), self._is_text[numbers].view(bool).reshape(shape))
