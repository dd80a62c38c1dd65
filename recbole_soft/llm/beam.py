"""Beam search over a tree of branches: the beams of ``transformers``' ``generate``, several times faster.

The rules are those of ``GenerationMixin._beam_search`` with ``do_sample=False`` and ``early_stopping=False``:
each step keeps the best ``max(2, 1 + number of end tokens) * K`` continuations of a prompt; those among its best K
that end compete, by score / length ** length_penalty, for the K finished places; the best K that do not end go
on; a prompt is done when its best open beam, measured at its present length, beats no finished one. In fp32 the
beams are the same, token for token. What differs is the work: see ``tree_decoder``.

Knows one batch. Order, batching, equal prompts and models that cannot be run like this: see ``generate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_soft.llm.tree_decoder import Prompt, Template, TreeDecoder, compaction
from recbole_soft.llm.trie import ROOT, TokenTrie

_RESERVED_STEPS = 24
"""Steps that memory is set aside for at first; most titles are shorter."""

_GROUP = 64
"""Columns per group in the two-stage top-k."""


@dataclass(frozen=True)
class BeamSettings:
    """How to search.

    Attributes:
        num_beams: open beams per prompt.
        max_new_tokens: longest answer, end-of-text included. A catalogue (``trie``) is searched to the end of its
            longest item whatever this says: half an item is not an answer.
        length_penalty: exponent of the length that a score is divided by.
        num_return: best beams returned per prompt, at most ``num_beams``.

    Raises:
        ValueError: a count is below 1, or ``num_return`` above ``num_beams``.
    """

    num_beams: int = 4
    max_new_tokens: int = 64
    length_penalty: float = 1.0
    num_return: int = 1

    def __post_init__(self) -> None:
        if self.num_beams < 1 or self.max_new_tokens < 1:
            raise ValueError(f"num_beams and max_new_tokens must be at least 1: {self}")
        if not 1 <= self.num_return <= self.num_beams:
            raise ValueError(f"num_return must be between 1 and num_beams: {self}")

    def steps(self, trie: TokenTrie | None) -> int:
        """The most tokens an answer may have."""
        return self.max_new_tokens if trie is None else max(self.max_new_tokens, trie.depth)


@dataclass(frozen=True)
class Beam:
    """One answer.

    Attributes:
        tokens: the new tokens, without end-of-text and padding.
        score: sum of log-probabilities / length ** length_penalty, end-of-text counted in both.
        finished: ended by end-of-text, not by the limit.
    """

    tokens: tuple[int, ...]
    score: float
    finished: bool


@dataclass
class _State:
    """One batch in the middle of the search; B prompts still open, K beams, T the most steps.

    Attributes:
        rows: ``[B]`` which prompt of the batch each row is.
        totals: ``[B, K]`` log-probability of each open beam, best first; minus infinity where there is none.
        tokens: ``[B, K, T]`` their tokens.
        nodes: ``[B, K]`` where they stand in the catalogue.
        best_scores: ``[B, K]`` normalised scores of the finished beams, best first; minus infinity where none.
        best_tokens: ``[B, K, T]`` their tokens.
        best_lengths: ``[B, K]`` their number of tokens, end-of-text included.
    """

    rows: Tensor
    totals: Tensor
    tokens: Tensor
    nodes: Tensor
    best_scores: Tensor
    best_tokens: Tensor
    best_lengths: Tensor

    @staticmethod
    def start(batch: int, beams: int, steps: int, device: torch.device) -> _State:
        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return _State(
            rows=torch.arange(batch, device=device),
            # One beam until the first step: K copies of the prompt would find the same tokens K times.
            totals=torch.zeros(batch, 1, device=device),
            tokens=whole(batch, 1, steps),
            nodes=torch.full((batch, 1), ROOT, device=device),
            best_scores=torch.full((batch, beams), -torch.inf, device=device),
            best_tokens=whole(batch, beams, steps),
            best_lengths=whole(batch, beams),
        )

    def take(self, rows: Tensor) -> _State:
        return _State(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of each prompt, best first; every tensor ``[B, C]``."""

    totals: Tensor
    parents: Tensor
    tokens: Tensor
    nodes: Tensor

    def pick(self, which: Tensor, totals: Tensor) -> _Candidates:
        return _Candidates(totals, *(part.gather(1, which) for part in (self.parents, self.tokens, self.nodes)))


@torch.no_grad()
def tree_beam_search(
    model: nn.Module,
    prompts: Sequence[Prompt],
    settings: BeamSettings,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    template: Template | None = None,
    trie: TokenTrie | None = None,
) -> list[list[Beam]]:
    """Searches one batch of prompts.

    Args:
        model: a causal language model in evaluation mode that ``supports_tree_search``.
        prompts: token ids, or embeddings ``[length, d]``, of each prompt; not empty.
        settings: how to search.
        eos_ids: the tokens that end an answer.
        pad_id: any valid token id.
        template: what every prompt begins with, from ``run_template``.
        trie: allow items of this catalogue only, on the model's device. Only finished items are returned, all
            different, and fewer than asked for when the catalogue has no more.

    Returns:
        For each prompt its best beams, best first.
    """
    beams, steps = settings.num_beams, settings.steps(trie)
    reserve = beams * min(steps, _RESERVED_STEPS)
    decoder = TreeDecoder(model, prompts, beams, pad_id, reserve=reserve, template=template)
    state = _State.start(len(prompts), beams, steps, decoder.device)
    answers = _State.start(len(prompts), beams, steps, decoder.device)
    eos = torch.tensor(list(eos_ids), device=decoder.device)
    kept = max(2, 1 + len(eos)) * beams
    logits = decoder.prefill().unsqueeze(1)
    for length in range(1, steps + 1):
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        if trie is None:
            candidates = _best_tokens(log_probs, state, kept)
        else:
            candidates = _best_children(log_probs, state, kept, trie, trie.widths[length - 1])
        ends = torch.isin(candidates.tokens, eos)
        # The limit ends every beam, except that half a catalogue item never counts.
        finishing = torch.ones_like(ends) if length == steps and trie is None else ends
        _finish(state, candidates, finishing, length, settings)
        parents, newest = _continue(state, candidates, ends, length, beams)
        is_done = _cannot_improve(state, length, settings).tolist() if length < steps else [True] * len(newest)
        if any(is_done):
            done_rows = torch.tensor([row for row, done in enumerate(is_done) if done], device=decoder.device)
            _store(answers, state.take(done_rows))
            if all(is_done):
                break
            kept_rows = decoder.keep(compaction(is_done))
            state, parents, newest = state.take(kept_rows), parents[kept_rows], newest[kept_rows]
        logits = decoder.step(newest, parents)
    return _to_beams(answers, settings.num_return, set(eos_ids))


def _best_tokens(log_probs: Tensor, state: _State, kept: int) -> _Candidates:
    """The best ``kept`` of all continuations. ``log_probs`` is ``[B, K, V]``."""
    values, tokens = top_k(log_probs, min(kept, log_probs.shape[-1]))
    return _best_of(values, tokens, torch.zeros_like(tokens), state, kept)


def _best_children(log_probs: Tensor, state: _State, kept: int, trie: TokenTrie, width: int) -> _Candidates:
    """The best ``kept`` of the continuations that lead on in the catalogue."""
    nodes, tokens, is_child = trie.children(state.nodes, width)
    values = log_probs.gather(2, tokens).masked_fill_(~is_child, -torch.inf)
    return _best_of(values, tokens, nodes, state, kept)


def _best_of(values: Tensor, tokens: Tensor, nodes: Tensor, state: _State, kept: int) -> _Candidates:
    """Adds what the beams have so far and keeps the best; all inputs are ``[B, K, choices]``."""
    totals = (values + state.totals.unsqueeze(-1)).flatten(1)
    best, which = totals.topk(min(kept, totals.shape[1]), dim=1)
    found = _Candidates(
        best, which // values.shape[2], tokens.flatten(1).gather(1, which), nodes.flatten(1).gather(1, which)
    )
    missing = kept - best.shape[1]
    if missing == 0:
        return found
    # Fewer continuations than places: the places stay, with a total that nothing can revive.
    which = torch.zeros(len(best), kept, dtype=torch.int64, device=best.device)
    which[:, : best.shape[1]] = torch.arange(best.shape[1], device=best.device)
    return found.pick(which, nn.functional.pad(best, (0, missing), value=-torch.inf))


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


def _finish(state: _State, candidates: _Candidates, finishing: Tensor, length: int, settings: BeamSettings) -> None:
    """Lets candidates that end here compete for the finished places. Only the best K candidates may."""
    beams = settings.num_beams
    scores = candidates.totals[:, :beams] / (length**settings.length_penalty)
    scores = scores.masked_fill(~finishing[:, :beams], -torch.inf)
    tokens = _grown(state.tokens, candidates.parents[:, :beams], candidates.tokens[:, :beams], length)
    lengths = torch.full_like(state.best_lengths, length)
    state.best_scores, which = torch.cat((state.best_scores, scores), dim=1).topk(beams, dim=1)
    state.best_lengths = torch.cat((state.best_lengths, lengths), dim=1).gather(1, which)
    state.best_tokens = torch.cat((state.best_tokens, tokens), dim=1).take_along_dim(which.unsqueeze(-1), dim=1)


def _continue(state: _State, candidates: _Candidates, ends: Tensor, length: int, beams: int) -> tuple[Tensor, Tensor]:
    """Makes the best candidates that do not end the open beams. Returns their parents and newest tokens."""
    totals, which = candidates.totals.masked_fill(ends, -torch.inf).topk(beams, dim=1)
    chosen = candidates.pick(which, totals)
    state.tokens = _grown(state.tokens, chosen.parents, chosen.tokens, length)
    state.totals, state.nodes = chosen.totals, chosen.nodes
    return chosen.parents, chosen.tokens


def _grown(tokens: Tensor, parents: Tensor, newest: Tensor, length: int) -> Tensor:
    grown = tokens.take_along_dim(parents.unsqueeze(-1), dim=1)
    grown[:, :, length - 1] = newest
    return grown


def _cannot_improve(state: _State, length: int, settings: BeamSettings) -> Tensor:
    """``[B]``: no open beam, taken at its present length, beats the worst finished one."""
    best_open = state.totals[:, 0] / (length**settings.length_penalty)
    return best_open <= state.best_scores[:, -1]


def _store(answers: _State, done: _State) -> None:
    answers.best_scores[done.rows] = done.best_scores
    answers.best_tokens[done.rows] = done.best_tokens
    answers.best_lengths[done.rows] = done.best_lengths


def _to_beams(answers: _State, num_return: int, eos_ids: set[int]) -> list[list[Beam]]:
    scores, lengths, tokens = (
        part[:, :num_return].tolist() for part in (answers.best_scores, answers.best_lengths, answers.best_tokens)
    )
    return [
        [
            _to_beam(beam_tokens[:length], score, eos_ids)
            for score, length, beam_tokens in zip(*row, strict=True)
            if score > -torch.inf
        ]
        for row in zip(scores, lengths, tokens, strict=True)
    ]


def _to_beam(tokens: list[int], score: float, eos_ids: set[int]) -> Beam:
    finished = tokens[-1] in eos_ids
    return Beam(tuple(tokens[:-1] if finished else tokens), score, finished)
