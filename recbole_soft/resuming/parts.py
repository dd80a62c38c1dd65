"""Long lists of results that are worked out part by part: parts that were written are not worked out again.

Which items share a part is fixed beforehand, whether or not a process is killed: a model's numbers depend in their
last digits on what is in a batch. A file is named by a hash of everything that decides its results, so parts are
never mistaken for others'. Lines with a checksum each; half a line at the end is dropped.

In a run of several processes each works out one part of every round, and the first one writes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from recbole_soft.parallel.group import alone, check_alike, from_first, gather, is_first, rank, world_size
from recbole_soft.resuming.pace import Pace

logger = logging.getLogger("recbole_soft")
Item = TypeVar("Item")


class Parts:
    """Where parts of unfinished results are kept.

    Args:
        folder: made with the first part; None for nowhere.
        seconds: how often to write; results that take less are not written at all.
    """

    def __init__(self, folder: Path | None, seconds: float):
        self._folder, self._seconds = folder, seconds

    def gather(
        self, kind: str, key: Callable[[], str], items: Sequence[Item], size: int, batch: int,
        compute: Callable[[Sequence[Item]], list[Any]], progress: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """One result per item, in order.

        Args:
            kind: word for the file and for messages.
            key: hash of all that decides the results, items included; asked for only where it is needed.
            items: cut into parts of `size`, several processes into smaller ones where some would be idle.
            batch: how many items `compute` takes at once; parts hold whole batches where there are enough.
            compute: results of a part, which JSON holds exactly; it reports progress by itself.
            progress: told of items whose results were found, or were worked out by another process.
        """
        check_alike(f"the number of {kind}", len(items))
        size = _part_size(len(items), size, batch)
        parts = [items[first: first + size] for first in range(0, len(items), size)]
        pace = Pace(self._seconds)
        folder = self._folder if is_first() else None
        path = folder / f"{kind}-{key()}.jsonl" if folder is not None and folder.is_dir() else None
        found = from_first(lambda: [] if path is None else _read(path, parts))
        if found:
            done = sum(map(len, found))
            logger.info("%s: %d of %d are there from before the interruption", kind, done, len(items))
            if progress is not None:
                progress(done)
        unwritten: list[list[Any]] = []
        for first in range(len(found), len(parts), world_size()):
            unwritten += _together(parts[first: first + world_size()], compute, progress)
            if folder is not None and pace.is_due():
                path = path or folder / f"{kind}-{key()}.jsonl"
                with pace.writing():
                    if _append(path, len(found), unwritten):
                        found, unwritten = [*found, *unwritten], []
        return [result for part in (*found, *unwritten) for result in part]


def _part_size(count: int, size: int, batch: int) -> int:
    """At most `size`, in whole batches, so that all processes have about as many items, in few rounds."""
    processes = world_size()
    if processes == 1 or not count:
        return size
    share = ceil(count / (processes * ceil(count / (processes * size))))
    return min(size, batch * ceil(share / batch)) if count > batch * (processes - 1) else share


def _together(parts: Sequence[Sequence[Item]], compute: Callable[[Sequence[Item]], list[Any]],
              progress: Callable[[int], None] | None) -> list[list[Any]]:
    """Results of at most one part per process."""
    own = parts[rank(): rank() + 1]
    with alone():
        results = [compute(part) for part in own]
    if progress is not None and world_size() > 1:
        progress(sum(map(len, parts)) - sum(map(len, own)))
    return [part for of_process in gather(results) for part in of_process]


def _read(path: Path, parts: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The whole parts at the beginning of a file; whatever follows them is cut off."""
    if not path.is_file():
        return []
    content, length, found = path.read_bytes(), 0, []
    for line in content.splitlines(keepends=True)[: len(parts)]:
        results = _results(line, len(found))
        if results is None or len(results) != len(parts[len(found)]):
            break
        found.append(results)
        length += len(line)
    if length < len(content):
        logger.warning("%s: half a line, or a damaged one, is left out", path)
        os.truncate(path, length)
    return found


def _results(line: bytes, number: int) -> list[Any] | None:
    checksum, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != _checksum(text):
        return None
    content = json.loads(text)
    return content["results"] if content["part"] == number else None


def _append(path: Path, first: int, parts: Sequence[list[Any]]) -> bool:
    """Adds parts to a file; whether it worked. A disk that is full or fails costs a warning, not the work."""
    texts = [json.dumps({"part": number, "results": results}).encode() + b"\n"
             for number, results in enumerate(parts, first)]
    length = path.stat().st_size if path.is_file() else 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(b"".join(_checksum(text) + b" " + text for text in texts))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        logger.warning("unfinished work cannot be saved (%s: %s); it goes on all the same", error.strerror, path)
        if path.is_file():
            os.truncate(path, length)
        return False
    return True


def _checksum(text: bytes) -> bytes:
    return sha256(text).hexdigest()[:16].encode()
