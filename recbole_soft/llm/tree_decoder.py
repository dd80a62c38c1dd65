"""Runs a causal language model over prompts that branch: one key/value row per prompt, however many beams.

The usual beam search copies every prompt once per beam. Here the beams of a prompt are branches of one row: each
step feeds one token per beam as the queries of that row, and an additive mask tells every beam which of the
earlier branch tokens are its own ancestors. Nothing is ever reordered in the cache; a prompt that is done leaves
by moving the last row into its place. The tokens that all prompts begin with are run once (``Template``).

Knows nothing of scores, end-of-text or catalogues (see ``beam``), nor which models may be run like this (see
``tree_support``).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_soft.llm.branch_cache import BranchLayer, branch_cache
from recbole_soft.llm.shortcuts import grouped_attention, last_position_only

Prompt = Sequence[int] | Tensor
"""Token ids, or input embeddings ``[length, d]`` where a prompt holds vectors that no token has."""


@dataclass(frozen=True)
class Template:
    """The beginning shared by all prompts, already run through the model in one row."""

    length: int
    layers: tuple[BranchLayer, ...]


def run_template(model: nn.Module, beginning: Prompt) -> Template:
    """Runs the tokens (or embeddings) that every prompt begins with, once.

    Raises:
        ValueError: ``beginning`` is empty.
    """
    if len(beginning) == 0:
        raise ValueError("an empty template needs no run")
    decoder = TreeDecoder(model, [beginning], num_beams=1, pad_id=0, reserve=0)
    decoder.prefill()
    return Template(len(beginning), tuple(decoder.cache.layers))


class TreeDecoder:
    """One batch of prompts and the branches that grow from them.

    Args:
        model: a causal language model that takes a 4-D mask and position ids; already in evaluation mode.
        prompts: at least one; all longer than the template, all ids or all embeddings.
        num_beams: branches per prompt.
        pad_id: any valid token id; what fills up short prompts is never looked at.
        reserve: branch positions to set memory aside for at first.
        template: what all prompts begin with, from ``run_template``.
        room: prompts to set memory aside for, if more are to be adopted.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        num_beams: int,
        pad_id: int,
        *,
        reserve: int = 0,
        template: Template | None = None,
        room: int | None = None,
    ):
        self.model, self.num_beams = model, num_beams
        self.device, self.dtype = model.device, model.dtype
        self._skipped = template.length if template else 0
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        self._width = int(lengths.max())
        self._inputs = left_pad(prompts, self._width, pad_id, self.device, skipped=self._skipped)
        self._lengths = lengths.to(self.device)
        self.cache = branch_cache(
            len(prompts), room or len(prompts), self._width + reserve, template.layers if template else None
        )
        self._blocked = torch.finfo(self.dtype).min
        self._only_last = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )

    def prefill(self) -> Tensor:
        """Runs the prompts. Returns the logits ``[B, V]`` of the first new token."""
        batch, device = len(self._lengths), self.device
        padding = (self._width - self._lengths).unsqueeze(1)
        columns = torch.arange(self._width, device=device)
        # Column order is template, padding, rest of the prompt: padding sits in the middle.
        is_real = (columns < self._skipped) | (columns >= self._skipped + padding)
        queries = columns[self._skipped :]
        causal = columns <= queries.unsqueeze(1)
        visible = causal & is_real.unsqueeze(1)
        # Padding looks at itself, so that no row of the softmax is empty; nobody looks at padding.
        visible |= columns == queries.unsqueeze(1)
        positions = (queries - padding).clamp_(min=0)
        with last_position_only(self.model, len(queries)):
            logits = self._forward(self._inputs, self._additive(visible.unsqueeze(1)), positions, **self._only_last)
        prompt_mask = self._additive(is_real)[:, None, None, :]
        self._mask = prompt_mask.expand(batch, 1, self.num_beams, self._width).contiguous()
        self._next_position = self._lengths.clone()
        fresh = torch.eye(self.num_beams, dtype=torch.bool, device=device)
        self._fresh_mask = self._additive(fresh)
        return logits[:, -1]

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Grows every branch by one token.

        Args:
            tokens: ``[B, K]`` int64, the new token of each branch.
            parents: ``[B, K]`` int64, which branch of the step before each one goes on from; in the first step
                all branches go on from the prompt and the values are not looked at.

        Returns:
            Logits ``[B, K, V]`` of the token after that.
        """
        ancestors = self._mask.gather(2, parents[:, None, :, None].expand(-1, -1, -1, self._mask.shape[-1]))
        fresh = self._fresh_mask.expand(len(tokens), 1, -1, -1)
        self._mask = torch.cat((ancestors, fresh), dim=-1)
        positions = self._next_position.unsqueeze(1).expand(-1, self.num_beams)
        logits = self._forward({"input_ids": tokens}, self._mask, positions)
        self._next_position = self._next_position + 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Drops prompts that are done. ``rows``, from ``compaction``: which old row each new row is."""
        moves = [(old, new) for new, old in enumerate(rows) if new != old]
        for layer in self.cache.layers:
            layer.move_rows(moves, len(rows))
        kept = torch.tensor(rows, device=self.device)
        self._mask, self._next_position = self._mask[kept], self._next_position[kept]

    def adopt(self, other: TreeDecoder) -> None:
        """Takes over the prompts of another decoder, behind its own; the other is of no more use.

        Only what some open branch still descends from is copied: padding and dead branches stay behind.
        """
        is_alive = (other._mask == 0).any(2).squeeze(1)
        count = int(is_alive.sum(1).max())
        columns = is_alive.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        for layer, other_layer in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.adopt(other_layer, columns)
        theirs = other._mask.gather(3, columns[:, None, None, :].expand(-1, 1, self.num_beams, -1))
        width = max(count, self._mask.shape[-1])
        both = (
            nn.functional.pad(mask, (0, width - mask.shape[-1]), value=self._blocked) for mask in (self._mask, theirs)
        )
        self._mask = torch.cat(tuple(both))
        self._next_position = torch.cat((self._next_position, other._next_position))

    def _additive(self, visible: Tensor) -> Tensor:
        # Never a boolean mask: eager attention adds it to the scores as 0 and 1, without an error.
        blocked = torch.full((), self._blocked, dtype=self.dtype, device=self.device)
        return torch.where(visible, torch.zeros_like(blocked), blocked)

    def _forward(self, inputs: dict[str, Tensor], mask: Tensor, positions: Tensor, **options) -> Tensor:
        with grouped_attention(self.model.config):
            outputs = self.model(
                **inputs,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                return_dict=True,
                **options,
            )
        return outputs.logits


def shared_length(prompts: Sequence[Prompt]) -> int:
    """How many positions all prompts begin with; leaves each at least one of its own."""
    shortest = min(map(len, prompts))
    if isinstance(prompts[0], Tensor):
        shared = shortest
        for prompt in prompts[1:]:
            equal = (prompt[:shared] == prompts[0][:shared]).all(-1)
            shared = int(equal.long().cumprod(0).sum())
    else:
        # In lexical order the first and the last differ earliest.
        ends = zip(min(map(tuple, prompts)), max(map(tuple, prompts)), strict=False)
        shared = next((index for index, (one, other) in enumerate(ends) if one != other), shortest)
    return min(shared, shortest - 1)


def compaction(is_done: Sequence[bool]) -> list[int]:
    """Closes the gaps that finished rows leave by moving as few rows as possible.

    Returns:
        For each new row the old row it was; most are their own.
    """
    left = len(is_done) - sum(is_done)
    movers = [row for row in range(left, len(is_done)) if not is_done[row]]
    return [movers.pop() if is_done[row] else row for row in range(left)]


def left_pad(
    prompts: Sequence[Prompt], width: int, pad_id: int, device: torch.device, skipped: int = 0
) -> dict[str, Tensor]:
    """The model inputs ``[B, width - skipped]`` behind the first ``skipped``, short prompts filled on the left."""
    if isinstance(prompts[0], Tensor):
        rests = [prompt[skipped:].to(device) for prompt in prompts]
        return {"inputs_embeds": nn.utils.rnn.pad_sequence(rests, batch_first=True, padding_side="left")}
    rows = [[pad_id] * (width - len(prompt)) + list(prompt[skipped:]) for prompt in prompts]
    return {"input_ids": torch.tensor(rows, device=device)}
