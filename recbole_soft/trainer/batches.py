"""The order of training: seeded permutations cut into optimiser batches, and those into micro-batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import ceil

import torch

logger = logging.getLogger("recbole_soft")


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of every optimiser batch of an epoch; the same for the same arguments.

    The last batch may be smaller. Order depends on seed and epoch alone, whatever ran before.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    return [order[first: first + batch_size] for first in range(0, count, batch_size)]


def seed_of_draws(seed: int, step: int, micro_batch: int) -> int:
    """Seed of what a micro-batch draws at random (dropout), whatever was drawn before and by which process."""
    return int.from_bytes(sha256(f"{seed} {step} {micro_batch}".encode()).digest()[:7])


def warn_of_idle(processes: int, batch_size: int, micro_batch_size: int) -> None:
    """Says so if some of several processes never have a micro-batch to train on.

    Smaller ones are the user's choice: what is in a micro-batch decides last digits, and what dropout draws.
    """
    busy = ceil(batch_size / micro_batch_size)
    if busy < processes:
        logger.warning("training: %d of %d processes have nothing to do, a batch of %d is %d micro-batches; "
                       "--micro_batch_size=%d gives work to all", processes - busy, processes, batch_size, busy,
                       max(1, batch_size // processes))


def micro_batches(rows: Sequence[int], lengths: Mapping[int, int], size: int) -> list[list[int]]:
    """Cuts a batch into micro-batches of rows of similar length (little padding); gradients add up anyway.

    Args:
        lengths: length of every row of the batch, by row number.
    """
    ordered = sorted(rows, key=lambda row: (lengths[row], row))
    return [ordered[first: first + size] for first in range(0, len(ordered), size)]
