"""Where a run's messages go: the terminal, a file in the run folder, and TensorBoard beside it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from recbole_soft.parallel.group import is_first
from recbole_soft.parallel.launch import launch


class _AboveProgressBars(logging.Handler):
    """Writes lines without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


@contextmanager
def log_to(path: Path, level: str = "INFO", terminal_level: str | None = None) -> Iterator[None]:
    """Our messages and RecBole's (which uses the root logger) to the terminal and to a file, from the first process.

    `terminal_level` keeps lesser messages off the terminal; without it the terminal shows what the file gets.
    Handlers are taken away at the end, so that a second run in the same process has its own file.
    """
    root = logging.getLogger()
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if is_first():
        handlers = [_AboveProgressBars(), logging.FileHandler(path, mode="a", encoding="utf-8")]
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        handlers[0].setLevel(terminal_level or logging.NOTSET)
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("recbole_soft")
    before = root.level, ours.level
    root.setLevel(logging.WARNING)
    ours.setLevel(level or "INFO")
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(before[0])
        ours.setLevel(before[1])


def quiet_libraries() -> None:
    """Hides warnings about RecBole's own code, which a user can do nothing about."""
    if launch().rank:
        warnings.filterwarnings("ignore")  # the first process shows them
    warnings.filterwarnings("ignore", module=r"recbole\.|thop")
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class _NoWriter:
    """Stands in for a `SummaryWriter` in processes that write no files."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_arguments, **_named: None


@contextmanager
def tensorboard_in(folder: Path) -> Iterator[None]:
    """RecBole writes TensorBoard files into the current folder; within the block they go to `folder`."""
    import recbole.trainer.trainer as module
    from torch.utils.tensorboard import SummaryWriter

    original = module.get_tensorboard
    writers = []

    def get_tensorboard(_logger):
        writers.append(SummaryWriter(str(folder)) if is_first() else _NoWriter())
        return writers[-1]

    module.get_tensorboard = get_tensorboard
    try:
        yield
    finally:
        module.get_tensorboard = original
        for writer in writers:
            writer.close()
