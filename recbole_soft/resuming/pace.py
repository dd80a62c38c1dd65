"""How often to write: by a number of seconds, and never so often that writing takes a noticeable share of the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Between two writes there is at least this many times what the last one took: less than 2 % of the time.
SHARE = 60


class Pace:
    """Says when the next write is due.

    Args:
        seconds: between two writes; 0 for at every opportunity, whatever it costs.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._last, self._cost = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether enough time has passed since the last write, or since the start."""
        wait = max(self._seconds, SHARE * self._cost) if self._seconds else 0.0
        return time.monotonic() - self._last >= wait

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a write: measures what it takes."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._cost = self._last - started
