"""Micro-batches of an optimiser step, dealt out to the processes; gradients summed in the order of one process.

In every round each process has one micro-batch; then all get all gradients of the round and add them up in order. So
every process ends with the gradient of one process, bit for bit on equal devices. Summing each process's own
micro-batches first, as data parallel training usually does, would send less (once per step), but the last digits would
depend on the number of processes. What is sent are the gradients of what is trained: for LoRA some megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor, nn

from recbole_soft.parallel import group

Batch = TypeVar("Batch")
Result = TypeVar("Result")

# By what a loss in float16 is multiplied: gradients of single tokens would become 0. A power of two rounds nothing.
HALF_SCALE = 2.0**12


def accumulate(
    batches: Sequence[Batch], backward: Callable[[int, Batch], Result], parameters: Sequence[nn.Parameter],
    after_round: Callable[[Sequence[Batch]], None],
) -> list[Result]:
    """Runs `backward(number, batch)` once for every micro-batch, somewhere, and leaves the sum of gradients everywhere.

    Args:
        batches: of the whole step; the same in all processes.
        backward: adds gradients to `parameters`; returns plain numbers.
        parameters: without gradients so far.
        after_round: told which micro-batches were done by all processes together.

    Returns:
        what `backward` returned, in the order of `batches`, in all processes.
    """
    size, results = group.world_size(), []
    sums: list[Tensor | None] = [None] * len(parameters)
    for first in range(0, len(batches), size):
        together = batches[first: first + size]
        place = group.rank()
        if place < len(together):
            results.append(backward(first + place, together[place]))
        if size > 1:
            _add_round(sums, parameters, len(together))
        after_round(together)
    if size == 1:
        return results
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total
    by_process = group.gather(results)
    return [by_process[number % size][number // size] for number in range(len(batches))]


def divide_gradients(parameters: Sequence[nn.Parameter], scale: float) -> None:
    """Takes a scale of the loss off the gradients again."""
    for parameter in parameters if scale != 1.0 else ():
        if parameter.grad is not None:
            parameter.grad.div_(scale)


def _add_round(sums: list[Tensor | None], parameters: Sequence[nn.Parameter], count: int) -> None:
    """Adds the gradients of the first `count` processes to `sums`, in their order, and takes them off `parameters`.

    A parameter that no micro-batch reached keeps None: an optimiser passes over it.
    """
    numbers = sorted(range(len(parameters)), key=lambda number: str(parameters[number].dtype))
    for _, same in groupby(numbers, key=lambda number: parameters[number].dtype):
        members = list(same)
        for row in _gathered([parameters[number] for number in members])[:count]:
            values, is_there = row[: -len(members)], row[-len(members):].bool().tolist()
            pieces = values.split([parameters[number].numel() for number in members])
            for number, piece, there in zip(members, pieces, is_there, strict=True):
                if there:
                    piece, total = piece.view_as(parameters[number]), sums[number]
                    sums[number] = piece.clone() if total is None else total.add_(piece)
    for parameter in parameters:
        parameter.grad = None


def _gathered(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Per process, [numbers + parameters] its gradients, and behind them 1 for each that there is, else 0."""
    from torch import distributed

    flat = [(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in parameters]
    is_there = flat[0].new_tensor([parameter.grad is not None for parameter in parameters])
    own = torch.cat([*flat, is_there])
    group.meet()
    rows = [torch.empty_like(own) for _ in range(group.world_size())]
    with group.lost_as_user_error():
        distributed.all_gather(rows, own)
    return rows
