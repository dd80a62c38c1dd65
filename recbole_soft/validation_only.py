"""Runs that end with validation, for searches: the test windows are out of reach, and every epoch is reported.

A search that looked at the test windows, be it by mistake, would choose settings by them. So the loader of the test
windows is taken away before there is a model; what is left of it says which windows they are, and cannot be read.
Knows nothing of searches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _ignore(epoch: int, score: float) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class ValidationOnly:
    """How a run goes that ends with validation.

    Attributes:
        after_epoch: called with number (from 0) and validation score of every epoch of the stage whose score counts,
            a strategy's last one. An exception that it raises ends the run.
        terminal_level: messages below this level go to the run's log file alone.
    """

    after_epoch: Callable[[int, float], None] = _ignore
    terminal_level: str = "WARNING"

    def for_companion(self) -> ValidationOnly:
        """The same for a model that is trained on the way, whose epochs nobody asked for."""
        return ValidationOnly(terminal_level=self.terminal_level)

    def callback(self, trainer) -> Callable[[int, float], None]:
        """RecBole's `callback_fn` of an LLM run: passes on the epochs of the last stage."""
        def after_validation(epoch: int, score: float) -> None:
            if trainer.curves[-1]["stage"] == trainer.stages[-1].name:
                self.after_epoch(epoch, float(score))
        return after_validation


class SealedWindows:
    """What a run that must not read the test windows may know of them: how many and which, by their fingerprint.

    Stands in for the loader and for its data set; everything else that is asked of it is an AttributeError or
    TypeError.
    """

    def __init__(self, loader) -> None:
        self._count, self._fingerprint = len(loader.dataset), loader.dataset.fingerprint()

    @property
    def dataset(self) -> SealedWindows:
        return self

    def __len__(self) -> int:
        return self._count

    def fingerprint(self) -> str:
        """Hash of the windows, for records and for companions trained on the same split."""
        return self._fingerprint
