"""One process at a time in a folder or on a result, by locks that the kernel takes back when a process dies.

`flock` is released with the process that holds it, also by kill -9, so there are no stale locks. A lock file says
who holds it, for messages alone. On file systems without `flock` there is no protection, and that is logged.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from recbole_soft.errors import UserError

logger = logging.getLogger("recbole_soft")
LOCK_FILE = ".lock"
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def only_process_in(folder: Path, remedy: str) -> Iterator[None]:
    """Within the block no other process, and no other block of this one, is at work in `folder`.

    Args:
        folder: exists and can be written.
        remedy: what else a second one can do, beside waiting.

    Raises:
        UserError: another process is at work there; names it.
    """
    path = folder / LOCK_FILE
    descriptor = _taken(path, wait=False)
    if descriptor is None:
        pid, who = _holder(path)
        raise UserError(f"another process is at work in this folder: {who}", where=str(folder),
                        remedy=f"wait until it has ended, or end it{f' (kill {pid})' if pid else ''}, or {remedy}")
    with _released_at_the_end(path, descriptor):
        yield


@contextmanager
def one_at_a_time(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within the block this process alone holds the lock file `path`; waits until it is free.

    Args:
        waiting: told who holds it, if it has to wait.
    """
    descriptor = _taken(path, wait=False)
    if descriptor is None:
        if waiting is not None:
            waiting(_holder(path)[1])
        descriptor = _taken(path, wait=True)
    with _released_at_the_end(path, descriptor):
        yield


def _taken(path: Path, wait: bool) -> int | None:
    """A descriptor that holds the lock; None if another one does and `wait` is False."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _BUSY:
                os.close(descriptor)
                return None
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            logger.warning("%s: this file system has no locks; do not start two runs on it at once", path.parent)
            return descriptor
        # The holder before may have removed the file between our open and our lock: then this is a lock on nothing.
        if _is_same_file(descriptor, path):
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(about).encode())
            return descriptor
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _released_at_the_end(path: Path, descriptor: int) -> Iterator[None]:
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:  # a forked child leaves its parent's file alone
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _holder(path: Path) -> tuple[int | None, str]:
    """Process number and a description of who holds a lock."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        here = "" if about["host"] == socket.gethostname() else f" on {about['host']}"
        return int(about["pid"]), f"process {about['pid']}{here}, since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None, "its number is not known"
