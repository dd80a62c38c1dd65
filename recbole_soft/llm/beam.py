"""Beam search over a tree of branches: the beams of ``transformers``' ``generate``, several times faster.

In fp32 the beams are the same, token for token (``beam_state`` has the rules). What differs is the work: a prompt
is run once and not once per beam (``tree_decoder``), the beginning that all prompts share is run once, a prompt
that is done leaves at once, and when a quarter of the places is free new prompts join those still under way.

Takes prompts as they come. Sorting, equal prompts, and models that cannot be run like this: see ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from recbole_soft.llm.beam_state import BeamState, Rules, advance, cannot_improve
from recbole_soft.llm.tree_decoder import Prompt, TreeDecoder, compaction, run_template, shared_length
from recbole_soft.llm.trie import TokenTrie

_RESERVED_STEPS = 24
"""Steps that memory is set aside for at first; most titles are shorter."""

_REFILL_BELOW = 0.75
"""Share of the places in use at which new prompts join. Higher copies caches more often; lower leaves steps with
few rows, which cost nearly as much as full ones. Measured: 0.75 takes 5-10 % less time than 0.5."""


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
    search = _Search(model, prompts, settings, eos_ids, pad_id, trie)
    waiting = list(range(len(prompts)))[::-1]
    found: dict[int, list[Beam]] = {}
    while waiting or search.under_way:
        if waiting and search.under_way <= batch_size * _REFILL_BELOW:
            free = batch_size - search.under_way
            search.take_in([waiting.pop() for _ in range(min(len(waiting), free))])
        else:
            search.step()
        done = search.take_out()
        found.update(done)
        if done and progress is not None:
            progress(list(done))
    return [found[number] for number in range(len(prompts))]


class _Search:
    """The prompts under way and the model that they are run through."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        settings: BeamSettings,
        eos_ids: Sequence[int],
        pad_id: int,
        trie: TokenTrie | None,
    ):
        steps, penalty = settings.steps(trie), settings.length_penalty
        self._model, self._prompts, self._pad_id = model, prompts, pad_id
        self._beams, self._eos_ids = settings.num_beams, frozenset(eos_ids)
        self._rules = Rules(
            num_return=settings.num_return,
            steps=steps,
            kept=max(2, 1 + len(eos_ids)) * settings.num_beams,
            eos=torch.tensor(list(eos_ids), device=model.device),
            divisors=torch.tensor([1.0] + [t**penalty for t in range(1, steps + 1)], device=model.device),
            trie=trie,
        )
        shared = shared_length(prompts)
        self._template = run_template(model, prompts[0][:shared]) if shared else None
        self._decoder: TreeDecoder | None = None
        self._state: BeamState | None = None

    @property
    def under_way(self) -> int:
        return len(self._state.numbers) if self._state is not None else 0

    def take_in(self, numbers: list[int]) -> None:
        """Runs new prompts, makes their first step, and lets those under way join them."""
        decoder = TreeDecoder(
            self._model,
            [self._prompts[number] for number in numbers],
            self._beams,
            self._pad_id,
            reserve=self._beams * min(self._rules.steps, _RESERVED_STEPS),
            template=self._template,
            room=len(numbers) + self.under_way,
        )
        state = BeamState.start(numbers, self._beams, self._rules.steps, decoder.device)
        advance(state, decoder.prefill().unsqueeze(1), self._rules)
        if self._state is not None:
            decoder.adopt(self._decoder)
            state = state.joined(self._state)
        self._decoder, self._state = decoder, state

    def step(self) -> None:
        advance(self._state, self._decoder.step(self._state.newest, self._state.parents), self._rules)

    def take_out(self) -> dict[int, list[Beam]]:
        """Takes the prompts that are done out of the batch and returns their beams by number."""
        is_done = cannot_improve(self._state, self._rules).tolist()
        if not any(is_done):
            return {}
        done = self._state.rows([row for row, is_row_done in enumerate(is_done) if is_row_done])
        if all(is_done):
            self._decoder, self._state = None, None
        else:
            left = compaction(is_done)
            self._decoder.keep(left)
            self._state = self._state.rows(left)
        return dict(zip(done.numbers, self._to_beams(done), strict=True))

    def _to_beams(self, done: BeamState) -> list[list[Beam]]:
        parts = (done.best_scores, done.best_lengths, done.best_tokens)
        scores, lengths, tokens = (part[:, : self._rules.num_return].tolist() for part in parts)

        def beam(score: float, length: int, row: list[int]) -> Beam:
            finished = row[length - 1] in self._eos_ids
            return Beam(tuple(row[: length - finished]), score, finished)

        return [
            [beam(*parts) for parts in zip(*places, strict=True) if parts[0] > -torch.inf]
            for places in zip(scores, lengths, tokens, strict=True)
        ]
