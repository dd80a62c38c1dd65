"""What a process holds at one moment: memory, objects, handles, global settings, and files outside the run folder.

Everything is counted after a full garbage collection, so that what is found is held by somebody. Knows nothing of
jobs, and does not judge.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

MEGABYTE = 2**20
# matplotlib makes a list of the machine's fonts when it is first imported, once per user.
NOT_OURS = (("matplotlib", "fontlist-"),)


@dataclass(frozen=True)
class Sample:
    """One moment.

    Attributes:
        values: MB, or how many there are, by name.
        settings: what all jobs of a process share, as text.
        types: how many objects of each type there are, as far as the garbage collector knows them.
        descriptors: where open file descriptors lead to.
        strays: new files outside the run folder.
    """

    values: dict[str, float]
    settings: dict[str, str]
    types: Counter[str]
    descriptors: Counter[str]
    strays: frozenset[Path]


class History:
    """The samples of a soak, in memory that is taken at once: what watches for growth must not grow.

    Args:
        jobs: how many samples there will be, one after every job.
        warm_up: how many jobs warm up.

    Attributes:
        warm: the sample after the warm-up, or the first one.
        last: the latest sample.
        strays: new files outside the run folder at any time.
    """

    def __init__(self, jobs: int, warm_up: int):
        self.warm_up, self._count = warm_up, 0
        self._jobs, self._values, self._names = jobs, np.zeros((0, 0)), ()
        self.warm: Sample | None = None
        self.last: Sample | None = None
        self.strays: set[Path] = set()

    def note(self, sample: Sample) -> None:
        """Adds a sample."""
        if not self._names:
            self._names, self._values = tuple(sample.values), np.zeros((self._jobs, len(sample.values)))
        self._values[self._count] = tuple(sample.values.values())
        self._count += 1
        self.strays |= sample.strays
        self.last = sample
        if self._count <= max(1, self.warm_up):
            self.warm = sample

    def values(self) -> dict[str, np.ndarray]:
        """`[jobs after the warm-up]` values by name."""
        return {name: self._values[self.warm_up: self._count, column] for column, name in enumerate(self._names)}

    def save(self, path: Path) -> None:
        """Writes all samples, the warm-up's included, as a csv file with one line per job."""
        np.savetxt(path, self._values[: self._count], delimiter=",", header=",".join(self._names), comments="",
                   fmt="%.10g")


class Sampler:
    """Takes samples of this process.

    Args:
        watched: folders in which no file may appear; what is there now may stay.
        run_folder: the folder in which files may appear.
    """

    def __init__(self, watched: Sequence[Path], run_folder: Path):
        self._process = psutil.Process()
        self._watched, self._run_folder = tuple(watched), run_folder
        self._present = self._files()

    def sample(self) -> Sample:
        """What is there now."""
        for _ in range(2):  # finalisers of the first time may let go of more
            gc.collect()
        objects = gc.get_objects()
        types = Counter(map(type, objects))
        number_of_objects = len(objects)
        del objects
        strays = frozenset(self._files() - self._present)
        values = {
            "resident memory": self._process.memory_info().rss / MEGABYTE,
            "Python objects": number_of_objects,
            "memory blocks": sys.getallocatedblocks(),
            **_of_torch(types),
            "file descriptors": self._process.num_fds(),
            "threads": self._process.num_threads(),
            "child processes": len(self._process.children(recursive=True)),
            "log handlers": sum(len(logger.handlers) for logger in _loggers()),
            "log filters": sum(len(logger.filters) for logger in _loggers()),
            "exit functions": atexit._ncallbacks(),
            "warning filters": len(warnings.filters),
            "TensorBoard writers": sum(count for kind, count in types.items() if kind.__name__ == "SummaryWriter"),
            "figures": _figures(),
            "files elsewhere": len(strays),
        }
        return Sample(values, _settings(), Counter({_name(kind): count for kind, count in types.items()}),
                      self._descriptors(), strays)

    def _files(self) -> set[Path]:
        return {Path(folder, name) for place in self._watched for folder, _, names in os.walk(place) for name in names
                if not Path(folder).is_relative_to(self._run_folder)
                and not any(Path(folder).name == last and name.startswith(start) for last, start in NOT_OURS)}

    @staticmethod
    def _descriptors() -> Counter[str]:
        found: Counter[str] = Counter()
        for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else ():
            try:
                found[os.readlink(entry)] += 1
            except FileNotFoundError:  # the one that lists this very folder
                continue
        return found


def _of_torch(types: Counter[type]) -> dict[str, float]:
    """Tensors and models that are alive, and what they hold of a GPU, once torch is there."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"tensors": 0, "models": 0}
    found: dict[str, float] = {
        name: sum(count for kind, count in types.items() if issubclass(kind, base))
        for name, base in (("tensors", torch.Tensor), ("models", torch.nn.Module))}
    if torch.cuda.is_available():
        found["GPU memory in use"] = torch.cuda.memory_allocated() / MEGABYTE
        found["GPU memory reserved"] = torch.cuda.memory_reserved() / MEGABYTE
    return found


def _loggers() -> Iterable[logging.Logger]:
    known = list(logging.getLogger().manager.loggerDict.values())
    return [logging.getLogger(), *(logger for logger in known if isinstance(logger, logging.Logger))]


def _figures() -> int:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return len(pyplot.get_fignums()) if pyplot else 0


def _settings() -> dict[str, str]:
    """Settings of the whole process that a job may change while it runs, and has to put back."""
    found: dict[str, Any] = {
        "working folder": Path.cwd(), "search path": sys.path, "words": sys.argv, "except hook": sys.excepthook,
        "stdout": id(sys.stdout), "stderr": id(sys.stderr), "Ctrl-C": signal.getsignal(signal.SIGINT),
        **{f"log level of {logger.name}": logger.level for logger in _loggers()},
        **{f"variable {name}": value for name, value in os.environ.items()},
    }
    if (torch := sys.modules.get("torch")) is not None:
        found |= {"default type": torch.get_default_dtype(), "gradients": torch.is_grad_enabled(),
                  "torch threads": torch.get_num_threads(), "anomaly mode": torch.is_anomaly_enabled(),
                  "deterministic": torch.are_deterministic_algorithms_enabled()}
    return {name: str(value) for name, value in found.items()}


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
