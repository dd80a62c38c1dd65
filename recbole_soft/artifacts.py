"""Run folders, atomic files and reusable results kept by content. Knows nothing of what is in them."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

from recbole_soft.errors import UserError
from recbole_soft.parallel.group import from_first, gather, is_first, may_write, world_size
from recbole_soft.resuming.locks import one_at_a_time

logger = logging.getLogger("recbole_soft")
COMPLETE = "complete.json"
PARTS = "parts"
UNFINISHED = "unfinished"
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = "inline_container"


def content_key(**parts: Any) -> str:
    """A short hash of everything that decides a result; anything left out is a wrong number some day."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Of several processes that come here together the first one writes.
    """
    if not may_write():
        return
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with in_place_of(path) as unfinished, unfinished.open("x", encoding="utf-8") as file:
            file.write(text)


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A free hidden name in the same folder: the file written there becomes `path` when the block ends well.

    A name of tempfile's would be readable by the user alone.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in UTF-8, atomically; what JSON cannot hold becomes text."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Writes one JSON per line in UTF-8, atomically."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Whatever a full or failing disk makes of writing `path` becomes an OSError that names the path.

    safetensors tells the cause only as text, `(os error 28)`; torch does not tell it at all.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except SafetensorError as error:
        number = _RUST_ERRNO.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    except RuntimeError as error:
        if _TORCH_WRITER not in str(error):
            raise
        raise OSError(errno.ENOSPC, "the file could not be written to its end", str(path)) from error


def make_folder(path: Path, setting: str = "checkpoint_dir") -> Path:
    """Makes a folder that can be written to.

    Args:
        path: the folder.
        setting: name of the setting that moves it, for the remedy.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"the folder cannot be written: {error.strerror}", where=str(path),
                        remedy=f"give another one: --{setting}=FOLDER") from error
    return path


class ArtifactStore:
    """Results that later runs reuse: a folder per kind and content key, complete or absent."""

    def __init__(self, root: Path):
        self.root = root

    def find(self, kind: str, key: str) -> Path | None:
        """The folder of a finished result; None if there is none, or files of it are gone or cut short."""
        return from_first(lambda: self._find(kind, key))

    def _find(self, kind: str, key: str) -> Path | None:
        folder = self.root / f"{kind}-{key}"
        try:
            sizes = read_json(folder / COMPLETE).get("sizes", {})
        except (OSError, ValueError):
            return None
        return folder if sizes.items() <= _sizes(folder).items() else None

    @contextmanager
    def writing(self, kind: str, key: str, about: dict[str, Any] | None = None) -> Iterator[Path]:
        """A folder to fill; it becomes the result when the block ends without an error.

        To be called by the first process of a run alone. One run at a time: a second one waits. What the block puts
        into the folder's `PARTS` is no part of the result; it is there again when a block that was ended in the middle,
        even by kill -9, is started anew.
        """
        make_folder(self.root, "artifacts_dir")
        with one_at_a_time(self.root / f".{kind}-{key}.lock", partial(_log_waiting, self.root, kind)):
            yield from self._filled(kind, key, about or {})

    def obtain(self, kind: str, key: str, make: Callable[[Path], dict[str, Any] | None],
               together: bool = False) -> tuple[Path, bool]:
        """The folder of a result, made by `make(folder)` when it is not there; second: whether it was.

        Args:
            together: whether the processes of a run share the work in `make`, which all of them then call; what others
                than the first write is thrown away. Else the first one makes it.
        """
        if together and world_size() > 1:
            return self._obtain_together(kind, key, make)
        return from_first(lambda: self._obtain(kind, key, make))

    def _obtain_together(self, kind: str, key: str, make: Callable[[Path], dict[str, Any] | None]) -> tuple[Path, bool]:
        if not is_first():
            if gather(None)[0]:
                with TemporaryDirectory() as scratch:
                    make(Path(scratch))
            return gather(None)[0]
        is_made = False

        def make_together(folder: Path) -> dict[str, Any] | None:
            nonlocal is_made
            is_made = True
            gather(True)
            return make(folder)

        result = self._obtain(kind, key, make_together)
        if not is_made:
            gather(False)
        return gather(result)[0]

    def _obtain(self, kind: str, key: str, make: Callable[[Path], dict[str, Any] | None]) -> tuple[Path, bool]:
        lock = self.root / f".{kind}-{key}.lock"
        found = self._find(kind, key)
        if found is not None and not lock.exists():
            return found, True
        make_folder(self.root, "artifacts_dir")
        with one_at_a_time(lock, partial(_log_waiting, self.root, kind)):
            found = self._find(kind, key)  # perhaps made by the process that was waited for
            if found is not None:
                return found, True
            about: dict[str, Any] = {}
            with contextmanager(self._filled)(kind, key, about) as folder:
                about.update(make(folder) or {})
        return self.root / f"{kind}-{key}", False

    def _filled(self, kind: str, key: str, about: dict[str, Any]) -> Iterator[Path]:
        """Yields the folder to fill, then puts it into place; to be called by the one process that may."""
        final = self.root / f"{kind}-{key}"
        unfinished = self.root / f".{kind}-{key}.unfinished"
        _clear_but_parts(unfinished)
        unfinished.mkdir(exist_ok=True)
        try:
            with disk_errors(self.root):
                yield unfinished
            shutil.rmtree(unfinished / PARTS, ignore_errors=True)
            write_json(unfinished / COMPLETE, {"kind": kind, "key": key, **about, "sizes": _sizes(unfinished)})
            if final.exists():
                shutil.rmtree(final)
            os.replace(unfinished, final)
        except OSError:  # a full disk needs the room
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        finally:
            _clear_but_parts(unfinished)


def _log_waiting(root: Path, kind: str, holder: str) -> None:
    logger.info("another run is making the same '%s' in %s (%s); waiting for it", kind, root, holder)


def _clear_but_parts(folder: Path) -> None:
    """Removes what an interrupted `make` left but for its parts; the folder, too, if there are none."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name == PARTS:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if folder.is_dir() and not (folder / PARTS).is_dir():
        shutil.rmtree(folder, ignore_errors=True)


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file, by its path inside the folder."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
