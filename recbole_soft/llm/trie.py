"""The catalogue as a tree of tokens: which token may follow which beginning of a title.

A constrained beam search asks, for thousands of beginnings at once, which tokens lead on towards an item of
the catalogue. The tree is therefore kept as flat tensors and built without a Python loop over tokens: 60,000
titles take a fraction of a second. It deliberately knows neither tokenizers, nor item ids, nor models: it sees
token ids only, and whoever built it maps finished token tuples back to items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import torch
from torch import Tensor

from recbole_soft.errors import DataError

NOWHERE = -1
"""Stands for "not a beginning of any item" where a node is expected."""

ROOT = 0


@dataclass(frozen=True)
class TokenTrie:
    """A prefix tree over token sequences, every one closed by the end-of-text token.

    Nodes are numbered breadth first, and the children of a node by their token. So the children of a node are
    neighbours, and ``edge_key`` (parent, then token) rises over the whole tree: one binary search follows an edge.

    Attributes:
        first_child: ``[nodes]`` int64, the first child of each node.
        child_count: ``[nodes]`` int64, how many children follow it; 0 at the leaves.
        token: ``[nodes]`` int64, the token on the edge into each node; -1 at the root.
        edge_key: ``[nodes]`` int64, ``parent * stride + token``, rising; -1 at the root.
        stride: a number above every token id.
        widths: the largest ``child_count`` at each depth. All beams of a step have the same depth, so a step knows
            how many children to fetch without asking the device.
        eos_id: the token that closes every sequence.
    """

    first_child: Tensor
    child_count: Tensor
    token: Tensor
    edge_key: Tensor
    stride: int
    widths: tuple[int, ...]
    eos_id: int

    @staticmethod
    def build(sequences: Sequence[Sequence[int]], eos_id: int) -> TokenTrie:
        """Builds the tree on the CPU; equal sequences share one path.

        Args:
            sequences: token ids of each title, without end-of-text.
            eos_id: appended to each sequence, so that a title may be the beginning of another.

        Raises:
            DataError: there are no sequences, one is empty, or one contains ``eos_id`` or a negative token.
        """
        tokens, starts, lengths = _flatten(sequences, eos_id)
        stride = int(tokens.max()) + 1
        node_of_sequence = np.zeros(len(lengths), dtype=np.int64)
        keys_by_depth: list[np.ndarray] = []
        node_count = 1
        # One round per depth, over the sequences that reach it: equal (node so far, token) means equal node.
        open_sequences = np.arange(len(lengths))
        for depth in range(int(lengths.max())):
            open_sequences = open_sequences[lengths[open_sequences] > depth]
            keys = node_of_sequence[open_sequences] * stride + tokens[starts[open_sequences] + depth]
            distinct, which = np.unique(keys, return_inverse=True)
            node_of_sequence[open_sequences] = node_count + which
            node_count += len(distinct)
            keys_by_depth.append(distinct)
        return _assemble(keys_by_depth, stride, eos_id)

    @property
    def depth(self) -> int:
        """Tokens of the longest sequence, end-of-text included."""
        return len(self.widths) - 1

    def to(self, device: torch.device | str) -> TokenTrie:
        """The same tree with its tensors on ``device``."""
        arrays = {name: getattr(self, name).to(device) for name in _ARRAYS}
        return TokenTrie(**arrays, stride=self.stride, widths=self.widths, eos_id=self.eos_id)

    def step(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Follows one token from each node.

        Args:
            nodes: int64, any shape; ``NOWHERE`` is allowed and stays there.
            tokens: int64, the same shape.

        Returns:
            The nodes reached, in the same shape; ``NOWHERE`` where no item goes on like this.
        """
        # A token beyond the stride would otherwise be read as an edge of the next node.
        possible = (nodes >= 0) & (tokens >= 0) & (tokens < self.stride)
        keys = torch.where(possible, nodes * self.stride + tokens, NOWHERE)
        found = torch.searchsorted(self.edge_key, keys).clamp_(max=self.edge_key.numel() - 1)
        return torch.where(possible & (self.edge_key[found] == keys), found, NOWHERE)

    def widest(self, nodes: Tensor) -> int:
        """The largest number of children among ``nodes`` (of any shape); 1 where none has any.

        Near the root this is far less than the widest node of the depth (``widths``): few nodes have many children.
        """
        counts = self.child_count[nodes.clamp(min=ROOT)].masked_fill(nodes == NOWHERE, 0)
        return max(1, int(counts.max())) if nodes.numel() else 1

    def children(self, nodes: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The continuations of many nodes at once, padded to ``width``.

        Args:
            nodes: int64 of shape ``[...]``; ``NOWHERE`` has no children.
            width: at least the largest number of children among the nodes, as ``widths[depth]`` is.

        Returns:
            Child nodes, their tokens, and whether each is a real child, all of shape ``[..., width]``. What is
            not a real child repeats some valid node and token.
        """
        offsets = torch.arange(width, device=nodes.device)
        somewhere = nodes.clamp(min=ROOT)
        is_child = (offsets < self.child_count[somewhere].unsqueeze(-1)) & (nodes >= 0).unsqueeze(-1)
        child = (self.first_child[somewhere].unsqueeze(-1) + offsets).clamp_(max=self.token.numel() - 1)
        # The root's own token, -1, can only be met as padding and must not be used as an index.
        return child, self.token[child].clamp_(min=0), is_child

    def mask_logits(self, logits: Tensor, nodes: Tensor) -> Tensor:
        """Sets every token that leads out of the catalogue to minus infinity.

        Args:
            logits: ``[N, V]`` scores of the next token (logits or log-probabilities).
            nodes: ``[N]`` where each row stands; a row that is ``NOWHERE`` keeps nothing.

        Returns:
            A new tensor ``[N, V]``.
        """
        _, tokens, is_child = self.children(nodes, self.widest(nodes))
        scores = logits.gather(1, tokens).masked_fill_(~is_child, -torch.inf)
        # The largest, not the last: padding may repeat the token of a real child.
        return torch.full_like(logits, -torch.inf).scatter_reduce_(1, tokens, scores, reduce="amax")


_ARRAYS = ("first_child", "child_count", "token", "edge_key")


def _flatten(sequences: Sequence[Sequence[int]], eos_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All tokens in one array, each sequence closed by ``eos_id``; where each starts; how long it is with it."""
    if len(sequences) == 0:
        raise DataError("The catalogue has no titles to decode.", remedy="check the item file and its filters")
    plain_lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    if plain_lengths.min() == 0:
        raise DataError("A title has no tokens.", f"title number {int(plain_lengths.argmin())}", "give the item a text")
    plain = np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(plain_lengths.sum()))
    if plain.min() < 0 or (plain == eos_id).any():
        raise DataError(
            f"A title contains the end-of-text token {eos_id} or a negative token.",
            remedy="tokenize titles without special tokens",
        )
    lengths = plain_lengths + 1
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    tokens = np.full(int(lengths.sum()), eos_id, dtype=np.int64)
    is_plain = np.ones(len(tokens), dtype=bool)
    is_plain[starts + plain_lengths] = False
    tokens[is_plain] = plain
    return tokens, starts, lengths


def _assemble(keys_by_depth: list[np.ndarray], stride: int, eos_id: int) -> TokenTrie:
    """Turns the rising edge keys of each depth into the arrays of the tree."""
    edge_key = np.concatenate([[NOWHERE], *keys_by_depth])
    token = edge_key % stride
    token[ROOT] = NOWHERE
    child_count = np.bincount(edge_key[1:] // stride, minlength=len(edge_key))
    first_child = 1 + np.concatenate(([0], np.cumsum(child_count)[:-1]))
    depth_starts = np.concatenate(([0, 1], 1 + np.cumsum([len(keys) for keys in keys_by_depth])))
    widths = tuple(int(child_count[start:end].max()) for start, end in pairwise(depth_starts))
    arrays = (first_child, child_count, token, edge_key)
    return TokenTrie(
        **{name: torch.from_numpy(array.astype(np.int64)) for name, array in zip(_ARRAYS, arrays, strict=True)},
        stride=stride,
        widths=widths,
        eos_id=eos_id,
    )
