"""A stand-in for a module with a few names replaced, to be bound inside one module of RecBole only.

`trainer.torch = ModuleView(torch, load=...)` changes what `torch.load` means in that one file, and nowhere
else in the process. Knows nothing of which module is replaced or why.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


class ModuleView(ModuleType):
    """Looks like `original`, except for the names given as `replacements`."""

    def __init__(self, original: ModuleType, **replacements: Any):
        super().__init__(original.__name__, original.__doc__)
        self._original = original
        vars(self).update(replacements)

    def __getattr__(self, name: str) -> Any:
        # Called only for names that are not replaced.
        return getattr(self._original, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._original), *vars(self)})
