"""Lays prompts and their responses out in rows in which no token is computed twice.

A *window* is one prompt with all its responses. Its tokens form a tree: the prompt is the trunk, the
responses branch off behind its last token, and responses that begin alike share their first nodes. A token
may attend to its ancestors in the tree and to nothing else, so that its hidden state is what it would be in a
sequence of its own. The last token of a response predicts nothing and is therefore never an input.

The columns of the rows are ordered [shared prefix | prompt remainders | response nodes]: a caller runs the
shared prefix once for the whole batch and may run the two other groups together or one after the other.

Knows nothing of models: token ids in, tensors out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Tokens = Sequence[int]


@dataclass
class ResponseTree:
    """The responses of one window, merged where they begin alike.

    Node 0 is the last token of the prompt. An edge is one prediction: "after this node comes that token".

    Attributes:
        tokens: input token of every node.
        parents: parent of every node (node 0 has itself).
        depths: distance of every node from node 0.
        edges: (node, predicted token), each pair once.
        paths: one list of edge numbers per response; their losses add up to the response's.
    """

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [0])
    depths: list[int] = field(default_factory=lambda: [0])
    edges: list[tuple[int, int]] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)

    @classmethod
    def grow(cls, last_prompt_token: int, responses: Sequence[Tokens]) -> ResponseTree:
        """Merges `responses` (each a token list, possibly empty) into a tree behind `last_prompt_token`."""
        tree = cls([last_prompt_token])
        child_of: dict[tuple[int, int], int] = {}
        edge_of: dict[tuple[int, int], int] = {}
        for response in responses:
            node, path = 0, []
            for place, token in enumerate(response):
                edge = (node, token)
                if edge not in edge_of:
                    edge_of[edge] = len(tree.edges)
                    tree.edges.append(edge)
                path.append(edge_of[edge])
                if place == len(response) - 1:
                    break
                if edge not in child_of:
                    child_of[edge] = len(tree.tokens)
                    tree.tokens.append(token)
                    tree.parents.append(node)
                    tree.depths.append(tree.depths[node] + 1)
                node = child_of[edge]
            tree.paths.append(path)
        return tree

    def ancestors(self) -> np.ndarray:
        """Bool `[nodes, nodes]`: entry (i, j) says whether node j is node i or one of its ancestors."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents[1:], start=1):
            seen[node] |= seen[parent]
        return seen


@dataclass(frozen=True)
class Window:
    """One prompt with its merged responses.

    Attributes:
        number: place in the batch.
        prompt: all tokens of the prompt, at least one.
        tree: its responses, with at least one predicted token.
    """

    number: int
    prompt: Tokens
    tree: ResponseTree


@dataclass(frozen=True)
class PackedRows:
    """One window per row, ready for a causal language model: R rows of T columns behind a prefix of S tokens.

    Attributes:
        windows: the windows, row by row.
        token_ids: `[R, T]` long, 0 where padded.
        positions: `[R, T]` long, restarting behind the prompt for every response.
        may_attend: `[R, T, S + T]` bool, True where the row's query may see the key.
        first_node_column: columns before it hold prompt remainders, the others response nodes.
        predictors: `[N]` long, index into the flattened `[R * (T - first_node_column)]` of the nodes.
        edge_predictors: `[E]` long, which of the predictors an edge starts from.
        edge_tokens: `[E]` long, the token an edge predicts.
        path_edges: `[M]` long, edges of all responses, one after the other.
        path_responses: `[M]` long, the response each of them belongs to: response * batch size + window.
    """

    windows: Sequence[Window]
    token_ids: Tensor
    positions: Tensor
    may_attend: Tensor
    first_node_column: int
    predictors: Tensor
    edge_predictors: Tensor
    edge_tokens: Tensor
    path_edges: Tensor
    path_responses: Tensor


def common_prefix_length(sequences: Sequence[Tokens]) -> int:
    """Number of leading tokens that all `sequences` share (0 for no sequence)."""
    if not sequences:
        return 0
    # The lexicographic extremes differ first where any two sequences do.
    low, high = min(map(list, sequences)), max(map(list, sequences))
    for place, (one, other) in enumerate(zip(low, high, strict=False)):
        if one != other:
            return place
    return min(len(low), len(high))


def group_by_length(windows: Sequence[Window], prefix_length: int, overhead: int) -> list[list[Window]]:
    """Splits windows into groups of similar length that are run one after the other.

    Finds the split of the length-sorted windows that computes the fewest tokens, padding included, when
    every group costs `overhead` tokens on top (what starting it is worth on the device at hand).
    """
    ordered = sorted(windows, key=lambda window: (len(window.prompt), len(window.tree.tokens)))
    cheapest, previous = [0.0], [0]
    for stop in range(1, len(ordered) + 1):
        remainder, nodes = len(ordered[stop - 1].prompt) - 1 - prefix_length, 0
        best, best_start = float("inf"), 0
        for start in range(stop - 1, -1, -1):
            nodes = max(nodes, len(ordered[start].tree.tokens))
            cost = cheapest[start] + (stop - start) * (remainder + nodes) + overhead
            if cost < best:
                best, best_start = cost, start
        cheapest.append(best)
        previous.append(best_start)
    groups, stop = [], len(ordered)
    while stop:
        groups.append(ordered[previous[stop] : stop])
        stop = previous[stop]
    return groups[::-1]


def pack_rows(windows: Sequence[Window], batch_size: int, prefix_length: int = 0) -> PackedRows:
    """Packs each window into a row of its own.

    Args:
        windows: what to pack, at least one.
        batch_size: number of windows in the whole batch, for the numbering of responses.
        prefix_length: leading prompt tokens left out because they are run elsewhere; shorter than every
            prompt.
    """
    first_node = max(len(window.prompt) for window in windows) - 1 - prefix_length
    width = first_node + max(len(window.tree.tokens) for window in windows)
    ids = np.zeros((len(windows), width), dtype=np.int64)
    positions = np.zeros_like(ids)
    may_attend = np.zeros((len(windows), width, prefix_length + width), dtype=bool)
    may_attend[:, :, :prefix_length] = True
    own = may_attend[:, :, prefix_length:]
    # Padding sees itself, lest a row of the softmax be empty.
    own[:, np.arange(width), np.arange(width)] = True

    for row, window in enumerate(windows):
        prompt, tree = window.prompt, window.tree
        stop, node_stop = len(prompt) - 1 - prefix_length, first_node + len(tree.tokens)
        ids[row, :stop] = prompt[prefix_length:-1]
        ids[row, first_node:node_stop] = tree.tokens
        positions[row, :stop] = np.arange(prefix_length, len(prompt) - 1)
        positions[row, first_node:node_stop] = len(prompt) - 1 + np.asarray(tree.depths)
        own[row, :stop, :stop] = np.tri(stop, dtype=bool)
        own[row, first_node:node_stop, :stop] = True
        own[row, first_node:node_stop, first_node:node_stop] = tree.ancestors()
    return PackedRows(
        windows,
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(may_attend),
        first_node,
        *_predictions(windows, batch_size, width - first_node),
    )


def _predictions(windows: Sequence[Window], batch_size: int, node_columns: int) -> tuple[Tensor, ...]:
    """The last five fields of `PackedRows`."""
    predictors: list[int] = []
    edge_predictors: list[int] = []
    edge_tokens: list[int] = []
    path_edges: list[int] = []
    path_responses: list[int] = []
    for row, window in enumerate(windows):
        tree, first_edge, first_predictor = window.tree, len(edge_tokens), len(predictors)
        predictors += range(row * node_columns, row * node_columns + len(tree.tokens))
        edge_predictors += [first_predictor + node for node, _ in tree.edges]
        edge_tokens += [token for _, token in tree.edges]
        for response, path in enumerate(tree.paths):
            path_edges += [first_edge + edge for edge in path]
            path_responses += [response * batch_size + window.number] * len(path)
    return tuple(map(torch.tensor, (predictors, edge_predictors, edge_tokens, path_edges, path_responses)))
