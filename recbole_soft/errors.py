"""Errors meant for the user: what was wrong, where, and what to do.

A mistake of the user ends in one message and exit code 2, never in a traceback; anything else is a bug
of ours and keeps its traceback. Knows nothing of the rest of the package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_CODE = 2


class UserError(Exception):
    """Something the user can mend.

    Args:
        what: the cause, one sentence.
        where: file, setting or row the cause is in.
        remedy: what to do next, ideally a command or a value to type.
    """

    def __init__(self, what: str, where: str | None = None, remedy: str | None = None):
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.message())

    def message(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:  {self.where}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


class SettingError(UserError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(UserError):
    """Input data that cannot be used as it is."""


class ModelError(UserError):
    """A language model or adapter that cannot be loaded or trained as asked."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known names, or lists them all when nothing is close."""
    known = sorted(known)
    folded = {candidate.lower(): candidate for candidate in reversed(known)}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(folded[c] for c in close) + "?"
    return "known: " + ", ".join(known)
