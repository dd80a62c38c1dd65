"""Calls back right after RecBole was imported, without importing it.

`import recbole_soft` must stay cheap (RecBole brings torch, pandas and scikit-learn, several seconds), and
yet whoever imports RecBole afterwards must meet a mended one. So we leave a finder in `sys.meta_path` that
waits for the top-level module `recbole`. Python imports a parent package before its submodules, so this also
catches `import recbole.config` and `from recbole.quick_start import run_recbole`.

Knows only the name `recbole`; what the callback does is up to the caller.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WATCHED = "recbole"


def when_recbole_is_imported(callback: Callable[[], None]) -> None:
    """Run `callback` once: now if RecBole is already imported, otherwise right after its `__init__` ran.

    The callback may import submodules of RecBole. An exception in it leaves `import recbole` as if it came
    from RecBole itself, and the callback stays armed for the next attempt. Several callbacks run in the order
    in which they were registered.
    """
    if WATCHED in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _RecBoleWatcher(callback))


class _RecBoleWatcher(MetaPathFinder):
    """Finds `recbole` where the finders after it do, but with a loader that calls back."""

    def __init__(self, callback: Callable[[], None]):
        self._callback = callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != WATCHED:
            return None
        # Only the finders behind this one, so that two watchers cannot ask each other for ever.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find else None
            if spec is not None:
                # The watcher is not removed here: importlib.util.find_spec() only asks and never loads.
                if spec.loader is not None:
                    spec.loader = _CallbackLoader(spec.loader, self)
                return spec
        return None

    def fire(self) -> None:
        sys.meta_path.remove(self)
        try:
            self._callback()
        except BaseException:
            sys.meta_path.insert(0, self)
            raise


class _CallbackLoader(Loader):
    """Loads as `original` does, hands the module back to `original`, then fires the watcher."""

    def __init__(self, original: Loader, watcher: _RecBoleWatcher):
        self._original = original
        self._watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # importlib.resources, inspect and pickle look at the loader: leave no trace of this one.
        module.__loader__ = self._original
        if module.__spec__ is not None:
            module.__spec__.loader = self._original
        self._original.exec_module(module)
        self._watcher.fire()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
