"""Beam search over a tree of branches: the beams of ``transformers``' ``generate``, several times faster.

The rules are those of ``GenerationMixin._beam_search`` with ``do_sample=False`` and ``early_stopping=False``:
each step keeps the best ``max(2, 1 + number of end tokens) * K`` continuations of a prompt; those among its best K
that end compete, by score / length ** length_penalty, for the K finished places; the best K that do not end go
on; a prompt is done when its best open beam, measured at its present length, beats no finished one. In fp32 the
beams are the same, token for token. What differs is the work: see ``tree_decoder``. A prompt that is done leaves
at once, and when half of the places are free new prompts join those still under way.

Takes prompts as they come. Sorting, equal prompts, and models that cannot be run like this: see ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from recbole_soft.llm.candidates import Candidates, best_children, best_tokens
from recbole_soft.llm.tree_decoder import Prompt, TreeDecoder, compaction, run_template, shared_length
from recbole_soft.llm.trie import ROOT, TokenTrie

_RESERVED_STEPS = 24
"""Steps that memory is set aside for at first; most titles are shorter."""


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


@torch.no_grad()
def tree_beam_search(
    model: nn.Module,
    prompts: Sequence[Prompt],
    settings: BeamSettings,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int = 32,
    trie: TokenTrie | None = None,
    progress: Callable[[list[int]], None] | None = None,
) -> list[list[Beam]]:
    """Searches the best answers to every prompt.

    Args:
        model: a causal language model in evaluation mode that ``supports_tree_search``.
        prompts: token ids, or embeddings ``[length, d]``, of each prompt; none empty. Best sorted by length.
        settings: how to search.
        eos_ids: the tokens that end an answer.
        pad_id: any valid token id.
        batch_size: prompts under way at once.
        trie: allow items of this catalogue only, on the model's device. Only finished items are returned, all
            different, and fewer than asked for when the catalogue has no more.
        progress: called with the numbers of the prompts that have just been done.

    Returns:
        For each prompt its best beams, best first.
    """
    rules = _Rules.of(settings, eos_ids, trie, model.device)
    shared = shared_length(prompts)
    template = run_template(model, prompts[0][:shared]) if shared else None
    reserve = settings.num_beams * min(rules.steps, _RESERVED_STEPS)
    found: dict[int, list[Beam]] = {}
    waiting = list(range(len(prompts)))[::-1]
    decoder, state = None, None
    while waiting or state is not None:
        under_way = len(state.numbers) if state is not None else 0
        if waiting and under_way <= batch_size // 2:
            numbers = [waiting.pop() for _ in range(min(len(waiting), batch_size - under_way))]
            fresh = TreeDecoder(
                model, [prompts[number] for number in numbers], settings.num_beams, pad_id,
                reserve=reserve, template=template, room=len(numbers) + under_way,
            )  # fmt: skip
            first = _State.start(numbers, settings.num_beams, rules.steps, fresh.device)
            _advance(first, fresh.prefill().unsqueeze(1), rules)
            if state is not None:
                fresh.adopt(decoder)
                first = first.joined(state)
            decoder, state = fresh, first
        else:
            _advance(state, decoder.step(state.newest, state.parents), rules)
        state, done = _take_out(decoder, state, rules)
        found.update(done)
        if done and progress is not None:
            progress(list(done))
    return [found[number] for number in range(len(prompts))]


@dataclass(frozen=True)
class _Rules:
    """What stays the same throughout a search; ``divisors[t]`` is ``t ** length_penalty``."""

    num_return: int
    steps: int
    kept: int
    eos_ids: frozenset[int]
    eos: Tensor
    divisors: Tensor
    trie: TokenTrie | None

    @staticmethod
    def of(settings: BeamSettings, eos_ids: Sequence[int], trie: TokenTrie | None, device: torch.device) -> _Rules:
        steps = settings.steps(trie)
        return _Rules(
            num_return=settings.num_return,
            steps=steps,
            kept=max(2, 1 + len(eos_ids)) * settings.num_beams,
            eos_ids=frozenset(eos_ids),
            eos=torch.tensor(list(eos_ids), device=device),
            divisors=torch.tensor([1.0] + [t**settings.length_penalty for t in range(1, steps + 1)], device=device),
            trie=trie,
        )


@dataclass
class _State:
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
    def start(numbers: list[int], beams: int, steps: int, device: torch.device) -> _State:
        batch = len(numbers)

        def whole(*shape: int) -> Tensor:
            return torch.zeros((batch, *shape), dtype=torch.int64, device=device)

        return _State(
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

    def rows(self, which: list[int]) -> _State:
        index = torch.tensor(which, dtype=torch.int64, device=self.lengths.device)
        values = (getattr(self, field.name) for field in fields(self))
        return _State(*(v[index] if isinstance(v, Tensor) else [v[row] for row in which] for v in values))

    def joined(self, other: _State) -> _State:
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return _State(*(torch.cat(pair) if isinstance(pair[0], Tensor) else pair[0] + pair[1] for pair in pairs))


def _advance(state: _State, logits: Tensor, rules: _Rules) -> None:
    """One step of the search. ``logits`` is ``[B, K, V]``, or ``[B, 1, V]`` in the first step."""
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    if rules.trie is None:
        candidates = best_tokens(log_probs, state.totals, rules.kept)
    else:
        width = max(rules.trie.widths[depth] for depth in set(state.steps_done))
        candidates = best_children(log_probs, state.totals, rules.kept, rules.trie, state.nodes, width)
    state.steps_done = [steps + 1 for steps in state.steps_done]
    state.lengths = state.lengths + 1
    ends = torch.isin(candidates.tokens, rules.eos)
    # The limit ends every beam, except that half a catalogue item never counts.
    finishing = ends if rules.trie is not None else ends | (state.lengths == rules.steps).unsqueeze(1)
    _finish(state, candidates, finishing, rules)
    _continue(state, candidates, ends)


def _finish(state: _State, candidates: Candidates, finishing: Tensor, rules: _Rules) -> None:
    """Lets candidates that end here compete for the finished places. Only the best K candidates may."""
    beams = state.best_scores.shape[1]
    scores = candidates.totals[:, :beams] / rules.divisors[state.lengths].unsqueeze(1)
    scores = scores.masked_fill(~finishing[:, :beams], -torch.inf)
    tokens = _grown(state, candidates.parents[:, :beams], candidates.tokens[:, :beams])
    lengths = state.lengths.unsqueeze(1).expand(-1, beams)
    state.best_scores, which = torch.cat((state.best_scores, scores), dim=1).topk(beams, dim=1)
    state.best_lengths = torch.cat((state.best_lengths, lengths), dim=1).gather(1, which)
    state.best_tokens = torch.cat((state.best_tokens, tokens), dim=1).take_along_dim(which.unsqueeze(-1), dim=1)


def _continue(state: _State, candidates: Candidates, ends: Tensor) -> None:
    """Makes the best candidates that do not end the open beams."""
    beams = state.best_scores.shape[1]
    totals, which = candidates.totals.masked_fill(ends, -torch.inf).topk(beams, dim=1)
    chosen = candidates.pick(which, totals)
    state.tokens = _grown(state, chosen.parents, chosen.tokens)
    state.totals, state.nodes = chosen.totals, chosen.nodes
    state.parents, state.newest = chosen.parents, chosen.tokens


def _grown(state: _State, parents: Tensor, newest: Tensor) -> Tensor:
    grown = state.tokens.take_along_dim(parents.unsqueeze(-1), dim=1)
    place = (state.lengths - 1)[:, None, None].expand(-1, newest.shape[1], 1)
    return grown.scatter_(2, place, newest.unsqueeze(-1))


def _cannot_improve(state: _State, rules: _Rules) -> Tensor:
    """``[B]``: the answers asked for can no longer change."""
    best_open = state.totals[:, 0]
    # The rule of transformers: nothing open, taken at its present length, beats the worst finished beam.
    by_rule = best_open / rules.divisors[state.lengths] <= state.best_scores[:, -1]
    # Totals only fall, so nothing open can ever score above this. With fewer answers asked for than beams it
    # often shows, long before the rule ends the search, that the answers stand.
    ceiling = best_open / torch.maximum(rules.divisors[state.lengths], rules.divisors[-1])
    return by_rule | (ceiling <= state.best_scores[:, rules.num_return - 1]) | (state.lengths == rules.steps)


def _take_out(decoder: TreeDecoder, state: _State, rules: _Rules) -> tuple[_State | None, dict[int, list[Beam]]]:
    """Takes the prompts that are done out of the batch. Returns what is left, and their beams by number."""
    is_done = _cannot_improve(state, rules).tolist()
    if not any(is_done):
        return state, {}
    done = state.rows([row for row, is_row_done in enumerate(is_done) if is_row_done])
    beams = dict(zip(done.numbers, _to_beams(done, rules), strict=True))
    if all(is_done):
        return None, beams
    left = compaction(is_done)
    decoder.keep(left)
    return state.rows(left), beams


def _to_beams(done: _State, rules: _Rules) -> list[list[Beam]]:
    parts = (done.best_scores, done.best_lengths, done.best_tokens)
    scores, lengths, tokens = (part[:, : rules.num_return].tolist() for part in parts)

    def beam(score: float, length: int, row: list[int]) -> Beam:
        finished = row[length - 1] in rules.eos_ids
        return Beam(tuple(row[: length - finished]), score, finished)

    return [
        [beam(*parts) for parts in zip(*places, strict=True) if parts[0] > -torch.inf]
        for places in zip(scores, lengths, tokens, strict=True)
    ]
