"""The processes of a run as a group: what one does for all, and what each does a share of.

Three rules keep this simple. All processes run the same program in the same order. A share is worked out `alone()`:
within it a process knows of no others. What all need is gathered in the order of one process, so that nothing depends
on how many there are. Knows nothing of what is shared.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from recbole_soft.errors import UserError
from recbole_soft.parallel.launch import Launch, check_launch, launch

Value = TypeVar("Value")
Item = TypeVar("Item")
# The first process may be alone at work for long (training of a retriever); a dead one is noticed at once anyway.
PATIENCE = timedelta(days=2)
GRACE_SECONDS = 5
_SIGNS_OF_LOSS = ("connection", "closed", "timed out", "timeout", "broken pipe", "socket")


class ProcessLostError(UserError):
    """Another process of the run has ended."""


class _Group:
    """State of this process; `objects` is a group of its own, so that GPUs are never waited for."""

    here = Launch()
    store: Any = None
    objects: Any = None
    depth_alone = 0
    help_others: Callable[[], None] | None = None


def start(asked: int | None, model: str, is_llm: bool) -> Launch:
    """Joins the processes that were launched together; does nothing in a run of one, or the second time.

    Args:
        asked, model, is_llm: see `check_launch`.

    Raises:
        SettingError: they cannot do this run.
    """
    here = launch()
    check_launch(here, asked, model, is_llm)
    _Group.help_others = None
    if here.world_size == 1 or _Group.here.world_size > 1:
        return _Group.here
    import torch
    from torch import distributed

    with lost_as_user_error():
        if not distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            _Group.store, _, _ = next(distributed.rendezvous("env://", timeout=PATIENCE))
            distributed.init_process_group(
                backend, store=distributed.PrefixStore("recbole_soft", _Group.store), rank=here.rank,
                world_size=here.world_size, timeout=PATIENCE)
            atexit.register(_leave)
        _Group.objects = distributed.new_group(backend="gloo", timeout=PATIENCE)
    _Group.here = here
    return here


def world_size() -> int:
    """Number of processes that share the work at this point; 1 within `alone()`."""
    return 1 if _Group.depth_alone else _Group.here.world_size


def rank() -> int:
    """Number of this process among them."""
    return 0 if _Group.depth_alone else _Group.here.rank


def is_first() -> bool:
    """Whether this process writes files and messages; the same within `alone()`."""
    return _Group.here.rank == 0


def may_write() -> bool:
    """Whether this process writes a file that all come to at this point; `alone()` no other process comes to it."""
    return is_first() or _Group.depth_alone > 0


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process shares no work; what it computes there need not be what others compute."""
    _Group.depth_alone += 1
    try:
        yield
    finally:
        _Group.depth_alone -= 1


def processes_of_run() -> tuple[int, int]:
    """Number of processes of the run, and the number of this one; `alone()` does not hide them."""
    return _Group.here.world_size, _Group.here.rank


def help_others_by(work: Callable[[], None]) -> None:
    """Has `work` run wherever processes meet; it may only return when it does in all of them."""
    _Group.help_others = work


def meet() -> None:
    """To be called before something is gathered: whoever comes early helps the others (`slices.py`)."""
    if _Group.help_others is not None:
        _Group.help_others()


def wishes_of_all(wish: int) -> list[int]:
    """A number from every process of the run, `alone()` or not."""
    import torch

    wishes = torch.zeros(_Group.here.world_size, dtype=torch.int64)
    gather_single(wishes, torch.tensor([wish]), group=_Group.objects)
    return wishes.tolist()


def gather_single(output: Any, own: Any, **options: Any) -> Any:
    """torch's gathering of equal tensors into one, by the name that this version has for it."""
    from torch import distributed

    # torch 2.13 warns of the older name; it can go with the versions that know no other.
    gather_all = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    with lost_as_user_error():
        return gather_all(output, own, **options)


def gather(value: Value) -> list[Value]:
    """The values of all processes, by rank. All have to call it."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    meet()
    values: list[Any] = [None] * world_size()
    with lost_as_user_error():
        distributed.all_gather_object(values, value, group=_Group.objects)
    return values


def from_first(work: Callable[[], Value]) -> Value:
    """What `work` returns in the first process, which alone runs it; the others wait. All have to call it.

    Raises:
        UserError: of `work`, in all processes.
        ProcessLostError: `work` failed otherwise; in all but the first process, which raises the cause.
    """
    if world_size() == 1:
        return work()
    if not is_first():
        value, error = _told(None)
        if error is not None:
            raise error
        return value
    try:
        with alone():
            value = work()
    except UserError as error:
        _told((None, error))
        raise
    except BaseException:
        _told((None, ProcessLostError("the first process has failed", where="process 1")))
        raise
    return _told((value, None))[0]


def _told(value: Any) -> Any:
    """What the first process says."""
    from torch import distributed

    meet()
    values = [value]
    with lost_as_user_error():
        distributed.broadcast_object_list(values, src=0, group=_Group.objects)
    return values[0]


@contextmanager
def by_first(context: AbstractContextManager[Value]) -> Iterator[Value]:
    """A context manager that the first process alone enters and leaves; all get what it yields."""
    with ExitStack() as stack:
        yield from_first(lambda: stack.enter_context(context))


def first_before_others(work: Callable[[], Value]) -> Value:
    """What `work` returns in each process; the first runs it before all others (a download, which they then find)."""
    results: list[Value] = []
    from_first(lambda: results.append(work()))
    return results[0] if results else work()


def share_rows(count: int) -> range:
    """This process's rows of `count`: contiguous, in order of rank, of equal number as far as possible."""
    return range(rank() * count // world_size(), (rank() + 1) * count // world_size())


def shared_out(items: Sequence[Item], compute: Callable[[Sequence[Item]], list[Value]]) -> list[Value]:
    """`compute(items)`, one result per item, each process doing its share alone. All have to call it alike."""
    if world_size() == 1:
        return compute(items)
    own = share_rows(len(items))
    with alone():
        results = compute(items[own.start: own.stop]) if own else []
    return [result for of_process in gather(results) for result in of_process]


def check_alike(what: str, value: Any) -> None:
    """Ends the run if the processes disagree about something that all must have alike.

    Raises:
        UserError: names the processes that disagree with the first.
    """
    values = gather(value)
    others = [number for number, theirs in enumerate(values, 1) if theirs != values[0]]
    if others:
        raise UserError(f"{what} is not the same in all processes", where=f"process {others[0]} of {len(values)}",
                        remedy="all need the same program, settings, data, folders and kind of device")


def speaks() -> bool:
    """Whether this process is the one that tells of a failure: the first that asks. True in a run of one.

    Before the processes have met, the first one tells; the others are ended with it, or tell themselves after a while.
    """
    if _Group.store is not None:
        try:
            return _Group.store.add("failures", 1) == 1
        except RuntimeError:  # the store went down with the process that kept it
            return False
    try:
        is_other = launch().rank > 0
    except UserError:  # the failure itself
        return True
    if is_other:
        time.sleep(GRACE_SECONDS)
    return True


@contextmanager
def lost_as_user_error() -> Iterator[None]:
    """A broken connection becomes the mistake it is."""
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        if not (isinstance(error, DistError) or any(word in str(error).lower() for word in _SIGNS_OF_LOSS)):
            raise
        here = launch()
        raise ProcessLostError(
            f"another process of this run has ended, or cannot be reached ({str(error).splitlines()[0][:200]})",
            where=f"noticed by process {here.rank + 1} of {here.world_size}",
            remedy="if it left no message, it may have been killed for lack of memory (dmesg); start the run "
                   "again, --resume goes on where it was ended") from error


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
