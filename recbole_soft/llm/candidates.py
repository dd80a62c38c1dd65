"""The best continuations of the open beams of many prompts: over all tokens, or over a catalogue.

Knows nothing of models, end-of-text or lengths: it sees log-probabilities and what each beam has so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_soft.llm.trie import TokenTrie

_GROUP = 64
"""Columns per group in the two-stage top-k."""


@dataclass(frozen=True)
class Candidates:
    """Continuations of each prompt, best first; every tensor is ``[B, C]``.

    Attributes:
        totals: log-probability of the beam so far and the new token; minus infinity where there is none.
        parents: the beam each goes on from.
        tokens: the new token.
        nodes: where that leads in the catalogue.
    """

    totals: Tensor
    parents: Tensor
    tokens: Tensor
    nodes: Tensor

    def pick(self, which: Tensor, totals: Tensor) -> Candidates:
        """The candidates at the positions ``which`` (``[B, c]``), with new totals."""
        return Candidates(totals, *(part.gather(1, which) for part in (self.parents, self.tokens, self.nodes)))


def best_tokens(log_probs: Tensor, totals: Tensor, kept: int) -> Candidates:
    """The best of all continuations.

    Args:
        log_probs: ``[B, K, V]`` of the next token.
        totals: ``[B, K]`` of the beams so far.
        kept: how many to keep, C.
    """
    values, tokens = top_k(log_probs, min(kept, log_probs.shape[-1]))
    return _best_of(values, tokens, torch.zeros_like(tokens), totals, kept)


def best_children(
    log_probs: Tensor, totals: Tensor, kept: int, trie: TokenTrie, nodes: Tensor
) -> Candidates:
    """The best of the continuations that lead on in the catalogue; ``nodes`` is ``[B, K]``, the rest as above."""
    children, tokens, is_child = trie.children(nodes, trie.widest(nodes))
    values = log_probs.gather(2, tokens).masked_fill_(~is_child, -torch.inf)
    return _best_of(values, tokens, children, totals, kept)


def _best_of(values: Tensor, tokens: Tensor, nodes: Tensor, totals: Tensor, kept: int) -> Candidates:
    """Adds what the beams have so far and keeps the best; ``values``, ``tokens``, ``nodes``: ``[B, K, choices]``."""
    every = (values + totals.unsqueeze(-1)).flatten(1)
    best, which = top_k(every, min(kept, every.shape[1]))
    found = Candidates(
        best, which // values.shape[2], tokens.flatten(1).gather(1, which), nodes.flatten(1).gather(1, which)
    )
    missing = kept - best.shape[1]
    if missing == 0:
        return found
    # Fewer continuations than places: the places stay, with a total that nothing can revive.
    positions = torch.arange(kept, device=best.device).clamp_(max=best.shape[1] - 1).expand(len(best), -1)
    return found.pick(positions, nn.functional.pad(best, (0, missing), value=-torch.inf))


def top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``values.topk(k)`` over a wide last dimension, in two stages.

    The k largest values lie in the k groups with the largest maxima. Taking maxima is a plain vectorised pass;
    the slow selection then sees a small part of the columns. Ties may come out in another order.
    """
    columns = values.shape[-1]
    groups = columns // _GROUP
    if groups < 2 * k:
        return values.topk(k, dim=-1)
    # Group g is the columns g, g + groups, g + 2 * groups, ...: its maximum runs along memory.
    grouped = values[..., : groups * _GROUP].unflatten(-1, (_GROUP, groups)).amax(-2).topk(k, dim=-1).indices
    offsets = torch.arange(_GROUP, device=values.device) * groups
    inside = (grouped.unsqueeze(-1) + offsets).flatten(-2)
    rest = torch.arange(groups * _GROUP, columns, device=values.device).expand(*values.shape[:-1], -1)
    where = torch.cat((inside, rest), dim=-1)
    best, which = values.gather(-1, where).topk(k, dim=-1)
    return best, where.gather(-1, which)
