"""The state of a beam search over many prompts, and one step of it.

The rules are those of ``GenerationMixin._beam_search`` with ``do_sample=False`` and ``early_stopping=False``:
each step keeps the best ``max(2, 1 + number of end tokens) * K`` continuations of a prompt; those among its best K
that end compete, by score / length ** length_penalty, for the K finished places; the best K that do not end go
on; a prompt is done when its best open beam, measured at its present length, beats no finished one.

Sees logits only; what produces them, and which prompt joins when, is up to ``beam``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from recbole_soft.llm.candidates import Candidates, best_children, best_tokens
from recbole_soft.llm.trie import ROOT, TokenTrie


@dataclass(frozen=True)
class Rules:
    """What stays the same throughout a search.

    Attributes:
        num_return: answers asked for.
        steps: the most tokens of an answer.
        kept: candidates kept per prompt and step.
        eos: the end tokens, on the device.
        divisors: ``[steps + 1]``, ``t ** length_penalty`` at t.
        trie: the catalogue, or None.
    """

    num_return: int
    steps: int
    kept: int
    eos: Tensor
    divisors: Tensor
    trie: TokenTrie | None


@dataclass
class BeamState:
    """The prompts under way: B of them, K beams each, T the most steps.

    Attributes:
        numbers: which prompt each row is.
        steps_done: how many tokens its open beams have.
        lengths: ``[B]`` the same on the device.
        totals: ``[B, K]`` log-probability of each open beam, best first; minus infinity where there is none.
        tokens: ``[B, K, T]`` their tokens.
        newest: ``[B, K]`` the last of them.
        parents: ``[B, K]`` the beam of the step before that each goes on from.
        nodes: ``[B, K]`` where they stand in the catalogue.
        best_scores: ``[B, K]`` normalised scores of the finished beams, best first; minus infinity where none.
        best_tokens: ``[B, K, T]`` their tokens.
        best_lengths: ``[B, K]`` their number of tokens, end-of-text included.
    """

    numbers: list[int]
    steps_done: list[int]
    lengths: Tensor
    totals: Tensor
    tokens: Tensor
    newest: Tensor
    parents: Tensor
    nodes: Tensor
    best_scores: Tensor
    best_tokens: Tensor
    best_lengths: Tensor

    @staticmethod
    def start(numbers: list[int], beams: int, steps: int, device: torch.device) -> BeamState:
        batch = len(numbers)

        def whole(*shape: int) -> Tensor:
            return torch.zeros((batch, *shape), dtype=torch.int64, device=device)

        return BeamState(
            numbers=numbers,
            steps_done=[0] * batch,
            lengths=whole(),
            # One beam until the first step: K copies of the prompt would find the same tokens K times.
            totals=torch.zeros(batch, 1, device=device),
            tokens=whole(1, steps),
            newest=whole(1),
            parents=whole(1),
            nodes=whole(1) + ROOT,
            best_scores=torch.full((batch, beams), -torch.inf, device=device),
            best_tokens=whole(beams, steps),
            best_lengths=whole(beams),
        )

    def rows(self, which: list[int]) -> BeamState:
        index = torch.tensor(which, dtype=torch.int64, device=self.lengths.device)
        values = (getattr(self, field.name) for field in fields(self))
        return BeamState(*(v[index] if isinstance(v, Tensor) else [v[row] for row in which] for v in values))

    def joined(self, other: BeamState) -> BeamState:
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return BeamState(*(torch.cat(pair) if isinstance(pair[0], Tensor) else pair[0] + pair[1] for pair in pairs))


def advance(state: BeamState, logits: Tensor, rules: Rules) -> None:
    """One step of the search. ``logits`` is ``[B, K, V]``, or ``[B, 1, V]`` in the first step."""
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    if rules.trie is None:
        candidates = best_tokens(log_probs, state.totals, rules.kept)
    else:
        candidates = best_children(log_probs, state.totals, rules.kept, rules.trie, state.nodes)
    state.steps_done = [steps + 1 for steps in state.steps_done]
    state.lengths = state.lengths + 1
    ends = torch.isin(candidates.tokens, rules.eos)
    # The limit ends every beam, except that half a catalogue item never counts.
    finishing = ends if rules.trie is not None else ends | (state.lengths == rules.steps).unsqueeze(1)
    _finish(state, candidates, finishing, rules)
    _continue(state, candidates, ends)


def _finish(state: BeamState, candidates: Candidates, finishing: Tensor, rules: Rules) -> None:
    """Lets candidates that end here compete for the finished places. Only the best K candidates may."""
    beams = state.best_scores.shape[1]
    scores = candidates.totals[:, :beams] / rules.divisors[state.lengths].unsqueeze(1)
    scores = scores.masked_fill(~finishing[:, :beams], -torch.inf)
    tokens = _grown(state, candidates.parents[:, :beams], candidates.tokens[:, :beams])
    lengths = state.lengths.unsqueeze(1).expand(-1, beams)
    state.best_scores, which = torch.cat((state.best_scores, scores), dim=1).topk(beams, dim=1)
    state.best_lengths = torch.cat((state.best_lengths, lengths), dim=1).gather(1, which)
    state.best_tokens = torch.cat((state.best_tokens, tokens), dim=1).take_along_dim(which.unsqueeze(-1), dim=1)


def _continue(state: BeamState, candidates: Candidates, ends: Tensor) -> None:
    """Makes the best candidates that do not end the open beams."""
    beams = state.best_scores.shape[1]
    totals, which = candidates.totals.masked_fill(ends, -torch.inf).topk(beams, dim=1)
    chosen = candidates.pick(which, totals)
    state.tokens = _grown(state, chosen.parents, chosen.tokens)
    state.totals, state.nodes = chosen.totals, chosen.nodes
    state.parents, state.newest = chosen.parents, chosen.tokens


def _grown(state: BeamState, parents: Tensor, newest: Tensor) -> Tensor:
    grown = state.tokens.take_along_dim(parents.unsqueeze(-1), dim=1)
    place = (state.lengths - 1)[:, None, None].expand(-1, newest.shape[1], 1)
    return grown.scatter_(2, place, newest.unsqueeze(-1))


def cannot_improve(state: BeamState, rules: Rules) -> Tensor:
    """``[B]``: the answers asked for can no longer change."""
    best_open = state.totals[:, 0]
    # The rule of transformers: nothing open, taken at its present length, beats the worst finished beam.
    by_rule = best_open / rules.divisors[state.lengths] <= state.best_scores[:, -1]
    # Totals only fall, so nothing open can ever score above this. With fewer answers asked for than beams it
    # often shows, long before the rule ends the search, that the answers stand.
    ceiling = best_open / torch.maximum(rules.divisors[state.lengths], rules.divisors[-1])
    return by_rule | (ceiling <= state.best_scores[:, rules.num_return - 1]) | (state.lengths == rules.steps)
