"""Runs packed rows through the backbone of a causal language model.

Up to three passes, each reading the keys and values of the ones before it, gradients included: the tokens
common to all prompts (one row for the whole batch), the remainders of the prompts, the responses. Of a prompt
only keys and values are read, so its passes end inside the attention of the last layer. Where a layer may
keep no keys and values (gradient checkpointing), everything runs in one pass instead, with the same result.

Masks are additive and of floating type: eager attention adds whatever it gets, a boolean mask would be
silently wrong. Knows nothing of heads and losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from recbole_soft.llm.packing import PackedRows, Window, common_prefix_length

# A shorter common prefix saves less than its pass costs.
SHORTEST_SHARED_PREFIX = 16
# Modules whose hooks do not mind a pass that is left: transformers' recording of hidden states is idle, and hooks of a
# model in pieces are called whatever happens.
_HARMLESS_HOOKS = ("transformers.utils.output_capturing", "recbole_soft.parallel.slices")


class _KeysStored(Exception):
    """The keys and values of the last layer are stored; what is left of the pass has no reader."""


class _PromptCache(DynamicCache):
    """Keys and values of prompts. While `last_layer` is set, a pass ends once that layer's are stored."""

    last_layer: int | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        stored = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self.last_layer:
            raise _KeysStored
        return stored

    def copy_for(self, rows: int) -> _PromptCache:
        """A cache for `rows` rows that all begin with the single row of this one, whose memory they share."""
        copy = _PromptCache()
        for layer in self.layers:
            shared = DynamicLayer()
            shared.lazy_initialization(layer.keys, layer.values)
            shared.keys = layer.keys.expand(rows, -1, -1, -1)
            shared.values = layer.values.expand(rows, -1, -1, -1)
            copy.layers.append(shared)
        return copy


class PackedRun:
    """One batch's way through the backbone; the common prefix runs on construction.

    Args:
        causal: causal language model without adapter wrapper (its modules may hold adapters).
        windows: all windows of the batch.
        prompt_embeddings: input embeddings `[len(prompt), d]` of every prompt, by window number, or None to
            take the model's own.

    Attributes:
        prefix_length: tokens that `pack_rows` is to leave out of the rows.
    """

    def __init__(
        self, causal: nn.Module, windows: Sequence[Window], prompt_embeddings: Sequence[Tensor] | None
    ):
        self.backbone: nn.Module = causal.base_model
        self.table: nn.Module = causal.get_input_embeddings()
        self.device: torch.device = self.table.weight.device
        self.dtype: torch.dtype = self.table.weight.dtype
        self.given = prompt_embeddings
        # A checkpointed layer would store its keys again when it is recomputed: such layers take no cache.
        self.uses_cache = not (self.backbone.training and _is_checkpointed(self.backbone))
        # One more pass reads all weights once more: worth the saved last layer where compute is the limit.
        self.runs_prompts_apart = self.uses_cache and self.device.type == "cpu"
        layers = causal.config.get_text_config(decoder=True).num_hidden_layers
        self.last_layer = layers - 1 if _may_end_early(self.backbone, self.table) else None
        self.prefix_length = self._shared_prefix_length(windows) if self.uses_cache else 0
        self.prefix = _PromptCache()
        if self.prefix_length:
            first = windows[0]
            ids = torch.tensor([list(first.prompt[: self.prefix_length])], device=self.device)
            positions = torch.arange(self.prefix_length, device=self.device)[None]
            inputs = {"input_ids": ids}
            if self.given is not None:
                given = self.given[first.number][None, : self.prefix_length]
                inputs = {"inputs_embeds": given.to(self.device, self.dtype)}
            self._store(self.prefix, position_ids=positions, attention_mask=None, **inputs)

    def node_states(self, rows: PackedRows) -> Tensor:
        """Final hidden states `[R, T - first_node_column, d]` of the response nodes of `rows`."""
        positions, mask = rows.positions.to(self.device), self._additive(rows.may_attend)
        name, inputs = self._inputs(rows)
        node = rows.first_node_column
        if not self.uses_cache:
            states = self.backbone(
                **{name: inputs}, position_ids=positions, attention_mask=mask, use_cache=False
            )
            return states.last_hidden_state[:, node:]
        cache, start = self.prefix.copy_for(len(rows.windows)), 0
        if self.runs_prompts_apart and node:
            seen = self.prefix_length + node
            past = {name: inputs[:, :node], "position_ids": positions[:, :node]}
            self._store(cache, attention_mask=mask[:, :, :node, :seen], **past)
            start = node
        rest = {name: inputs[:, start:], "position_ids": positions[:, start:]}
        states = self.backbone(
            **rest, attention_mask=mask[:, :, start:], past_key_values=cache, use_cache=True
        )
        return states.last_hidden_state[:, node - start :]

    def _store(self, cache: _PromptCache, **inputs: Tensor | None) -> None:
        """Adds the keys and values of `inputs` to `cache`."""
        cache.last_layer = self.last_layer
        try:
            self.backbone(**inputs, past_key_values=cache, use_cache=True)
        except _KeysStored:
            pass
        finally:
            cache.last_layer = None

    def _inputs(self, rows: PackedRows) -> tuple[str, Tensor]:
        """The backbone's input by name: ids `[R, T]`, or embeddings `[R, T, d]` if some are given."""
        ids = rows.token_ids.to(self.device)
        if self.given is None:
            return "input_ids", ids
        embedded = self.table(ids)
        slots: list[int] = []
        for row, window in enumerate(rows.windows):
            first = row * ids.shape[1]
            slots += range(first, first + len(window.prompt) - 1 - self.prefix_length)
            slots.append(first + rows.first_node_column)
        given = torch.cat([self.given[window.number][self.prefix_length :] for window in rows.windows])
        filled = embedded.flatten(0, 1).index_copy(
            0, torch.tensor(slots, device=self.device), given.to(embedded)
        )
        return "inputs_embeds", filled.view_as(embedded)

    def _additive(self, may_attend: Tensor) -> Tensor:
        """Float mask `[R, 1, T, S + T]`: 0 where a query sees a key, the lowest number elsewhere."""
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype
        mask = torch.zeros(may_attend.shape, dtype=dtype, device=self.device)
        return mask.masked_fill_(~may_attend.to(self.device), torch.finfo(dtype).min)[:, None]

    def _shared_prefix_length(self, windows: Sequence[Window]) -> int:
        """Leading tokens (and given embeddings) common to all prompts, 0 if too few to pay."""
        if len(windows) < 2:
            return 0
        prompts = [window.prompt for window in windows]
        length = min(common_prefix_length(prompts), min(map(len, prompts)) - 1)
        if length and self.given is not None:
            starts = torch.stack([self.given[window.number][:length].detach() for window in windows])
            differs = (starts != starts[0]).any(dim=-1).any(dim=0)
            length = int(differs.nonzero()[0]) if bool(differs.any()) else length
        return length if length >= SHORTEST_SHARED_PREFIX else 0


def _is_checkpointed(backbone: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules())


def _may_end_early(backbone: nn.Module, table: nn.Module) -> bool:
    """Whether a pass may be left in the middle.

    It may not if something (sharding, offloading, a compiler) has to run at the end of a module's forward.
    The input embeddings always run to their end.
    """
    return not any(
        any(getattr(hook, "__module__", None) not in _HARMLESS_HOOKS for hook in module._forward_hooks.values())
        or hasattr(module, "_hf_hook")
        or hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or type(module).__name__ == "FullyShardedDataParallel"
        for module in backbone.modules()
        if module is not table
    )
