"""Checkpoints: JSON and tensors that are whole or not there, the last two of them, each with its checksum.

A checkpoint is a folder of `state.json` and `tensors.safetensors`. It is written under another name, flushed to the
disk and then renamed, so that neither kill -9 nor a power cut leaves half of one under its name. A disk may still
damage it later: what does not agree with its checksums is passed over for the one before, with a message.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_soft.artifacts import disk_errors, file_hash
from recbole_soft.resuming.pace import Pace

logger = logging.getLogger("recbole_soft")
FORMAT = 1
STATE_FILE, TENSORS_FILE = "state.json", "tensors.safetensors"
_PREFIX = "checkpoint-"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        state: as JSON holds it: tuples are lists, keys are text; floats are exact.
        tensors: on the CPU.
    """

    state: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one piece of work.

    Args:
        folder: where they are; made with the first one. None for nowhere: nothing is saved or found.
        seconds: how often (see `Pace`).
        identity: hash of what decides the work; checkpoints of another identity are not found.
    """

    def __init__(self, folder: Path | None, seconds: float, identity: str):
        self._folder, self._identity = folder, identity
        self._pace = Pace(seconds)

    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return self._folder is not None and self._pace.is_due()

    def write(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Saves, and removes all but the last two. A disk that is full or fails costs a warning, not the work.

        Args:
            state: anything that JSON holds.
            tensors: with memory of their own each.

        Raises:
            TypeError: `state` holds something that JSON does not.
        """
        unfinished = self._folder / ".unfinished"
        try:
            with self._pace.writing(), disk_errors(self._folder):
                self._write(unfinished, state, tensors)
        except OSError as error:
            logger.warning("unfinished work cannot be saved (%s: %s); it goes on all the same", error.strerror,
                           error.filename)
            shutil.rmtree(unfinished, ignore_errors=True)

    def _write(self, unfinished: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        numbers = self._numbers()
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished / TENSORS_FILE)
        content = {"format": FORMAT, "identity": self._identity, "tensors": file_hash(unfinished / TENSORS_FILE),
                   "state": state}
        text = json.dumps(content)
        (unfinished / STATE_FILE).write_text(f"{_checksum(text)}\n{text}\n", encoding="utf-8")
        for path in (unfinished / TENSORS_FILE, unfinished / STATE_FILE, unfinished):
            _flush(path)
        os.replace(unfinished, self._path(1 + max(numbers, default=0)))
        _flush(self._folder)
        for number in sorted(numbers)[: len(numbers) + 1 - _KEPT]:
            shutil.rmtree(self._path(number))

    def latest(self) -> Checkpoint | None:
        """The last checkpoint of this work that is whole; None if there is none."""
        for number in sorted(self._numbers(), reverse=True):
            try:
                return self._read(self._path(number))
            except _OtherWorkError as error:
                logger.info("%s is not used: %s", self._path(number), error)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                logger.warning("the checkpoint %s is damaged (%s); the one before it is used, if there is one",
                               self._path(number), error)
        return None

    def clear(self) -> None:
        """Removes all of them."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _numbers(self) -> list[int]:
        if self._folder is None or not self._folder.is_dir():
            return []
        names = (path.name.removeprefix(_PREFIX) for path in self._folder.glob(f"{_PREFIX}*"))
        return [int(name) for name in names if name.isdecimal()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{_PREFIX}{number:06d}"

    def _read(self, folder: Path) -> Checkpoint:
        checksum, _, text = (folder / STATE_FILE).read_text(encoding="utf-8").partition("\n")
        text = text.removesuffix("\n")
        if checksum != _checksum(text):
            raise ValueError(f"the checksum of {STATE_FILE} is another")
        content = json.loads(text)
        if (content["format"], content["identity"]) != (FORMAT, self._identity):
            raise _OtherWorkError("it was written for other settings, data or weights")
        if content["tensors"] != file_hash(folder / TENSORS_FILE):
            raise ValueError(f"the checksum of {TENSORS_FILE} is another")
        return Checkpoint(content["state"], load_file(folder / TENSORS_FILE))


class _OtherWorkError(Exception):
    """The checkpoint is whole, and of something else."""


def _checksum(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
