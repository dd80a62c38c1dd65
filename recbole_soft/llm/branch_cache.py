"""A key/value cache for prompts that branch: cheap to append to, to drop rows from, and to merge.

A ``transformers`` cache layer like any other to the model. Knows nothing of masks, positions or beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 64
"""Positions added at a time once the first guess is full."""


class BranchLayer(CacheLayerMixin):
    """Keys and values of one model layer, in one block of memory that new tokens are written into.

    Appending costs the new tokens only, where concatenation would copy all of the cache in every step.

    Args:
        rows: prompts to begin with.
        room: rows to set memory aside for; more may be adopted later.
        capacity: positions to set aside at first.
        template: the same layer of the template's cache, whose contents every row begins with.
    """

    is_sliding = False

    def __init__(self, rows: int, room: int, capacity: int, template: BranchLayer | None = None):
        super().__init__()
        self.rows, self.room, self.capacity, self.template = rows, room, capacity, template
        self.length = template.length if template is not None else 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            states.new_empty(self.room, states.shape[1], self.capacity, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True
        if self.template is not None:
            self.keys[: self.rows, :, : self.length] = self.template.keys[:, :, : self.length]
            self.values[: self.rows, :, : self.length] = self.template.values[:, :, : self.length]

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self._reserve(end)
        self.keys[: self.rows, :, self.length : end] = key_states
        self.values[: self.rows, :, self.length : end] = value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def move_rows(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Copies whole rows over others (from, to) and forgets all but the first ``rows``."""
        for buffer in (self.keys, self.values):
            # One plain copy per row: several times faster than indexing with a tensor, and there are few.
            for source, target in moves:
                buffer[target, :, : self.length] = buffer[source, :, : self.length]
        self.rows = rows

    def adopt(self, other: BranchLayer, columns: Tensor) -> None:
        """Appends the rows of ``other``, of each the positions ``columns`` (``[rows, count]``)."""
        old, count = self.length, columns.shape[1]
        self.length = max(old, count)
        self._reserve(self.length)
        end = self.rows + other.rows
        for name in ("keys", "values"):
            source, target = getattr(other, name), getattr(self, name)
            heads = torch.arange(other.rows * source.shape[1], device=columns.device).view(other.rows, -1, 1)
            which = (heads * other.capacity + columns.unsqueeze(1)).flatten()
            copied = source.flatten(0, 2).index_select(0, which)
            target[self.rows : end, :, :count] = copied.view(other.rows, source.shape[1], count, -1)
            # What the shorter side lacks is masked, but a masked NaN would still spoil the sum.
            target[self.rows : end, :, count : self.length] = 0
            target[: self.rows, :, old : self.length] = 0
        self.rows = end

    def _reserve(self, length: int) -> None:
        if length <= self.capacity:
            return
        self.capacity = length + _GROWTH
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(self.room, old.shape[1], self.capacity, old.shape[3])
            new[: self.rows, :, : old.shape[2]] = old[: self.rows]
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1


def branch_cache(rows: int, room: int, capacity: int, template: Sequence[BranchLayer] | None = None) -> Cache:
    """A cache of ``BranchLayer``s; the arguments are theirs, for all layers."""
    if template is None:
        return Cache(layer_class_to_replicate=partial(BranchLayer, rows, room, capacity))
    return Cache(layers=[BranchLayer(rows, room, capacity, layer) for layer in template])
