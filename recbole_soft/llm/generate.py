"""Answers of a language model to many prompts: which search runs, in which batches, in which order.

Takes the tree search wherever the model allows it and ``transformers``' own beam search otherwise, with the same
results. Equal prompts are run once; prompts of like length share a batch; what all prompts begin with is run once.
Knows nothing of what prompts or answers mean.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from recbole_soft.llm.architecture import causal_language_model
from recbole_soft.llm.beam import Beam, BeamSettings, tree_beam_search
from recbole_soft.llm.merged import merged_adapters
from recbole_soft.llm.reference import reference_beam_search
from recbole_soft.llm.tree_decoder import Prompt
from recbole_soft.llm.tree_support import supports_tree_search
from recbole_soft.llm.trie import TokenTrie

__all__ = ["Beam", "BeamSettings", "generate", "reference_beam_search", "supports_tree_search"]

_logger = logging.getLogger("recbole_soft")
_already_logged: set[str] = set()


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]] | Sequence[Tensor],
    settings: BeamSettings,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int = 32,
    fast: bool = True,
    trie: TokenTrie | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[Beam]]:
    """Searches the best answers to every prompt.

    Args:
        model: a causal language model or a PEFT model around one. Run in evaluation mode, then put back.
        prompts: token ids of each prompt, or its input embeddings ``[length, d]``; none empty.
        settings: how to search.
        eos_ids: the tokens that end an answer; with a ``trie`` its ``eos_id`` alone counts.
        pad_id: any valid token id.
        batch_size: prompts in memory at once. The reference search, which copies a prompt for every beam, takes
            ``batch_size / num_beams`` of them.
        fast: take the tree search where the model allows it.
        trie: allow items of this catalogue only; may then return fewer than ``settings.num_return``.
        progress: called with the number of prompts done since it was last called.

    Returns:
        For each prompt, in order, its best beams, best first.

    Raises:
        ValueError: a prompt is empty.
    """
    if not prompts:
        return []
    if min(map(len, prompts)) == 0:
        raise ValueError("a prompt is empty; begin it with a start token")
    groups = _groups_of_equal(prompts)
    distinct = [prompts[members[0]] for members in groups]
    by_length = sorted(range(len(distinct)), key=lambda index: len(distinct[index]), reverse=True)
    inner = causal_language_model(model)
    if trie is not None:
        trie, eos_ids = trie.to(inner.device), (trie.eos_id,)
    search, at_once = _choose(model, distinct, settings, batch_size, fast=fast, trie=trie)

    def report(numbers: list[int]) -> None:
        if progress is not None:
            progress(sum(len(groups[by_length[number]]) for number in numbers))

    # The search of transformers is the oracle and stays as it is.
    merged = merged_adapters(inner) if search is tree_beam_search else nullcontext()
    with _evaluating(inner), merged:
        answers = search(
            inner, [distinct[index] for index in by_length], settings,
            eos_ids=eos_ids, pad_id=pad_id, batch_size=at_once, trie=trie, progress=report,
        )  # fmt: skip
    found: list[list[Beam]] = [[] for _ in prompts]
    for index, beams in zip(by_length, answers, strict=True):
        for member in groups[index]:
            found[member] = beams
    return found


def _choose(
    model: nn.Module,
    prompts: Sequence[Prompt],
    settings: BeamSettings,
    batch_size: int,
    *,
    fast: bool,
    trie: TokenTrie | None,
) -> tuple[Callable[..., list[list[Beam]]], int]:
    """The search to run, and how many prompts to give it at once."""
    longest = max(map(len, prompts)) + settings.steps(trie)
    reason = supports_tree_search(model, longest) if fast else "the setting asks for it"
    if reason is not None:
        _log_once(f"Generating with the beam search of transformers, because {reason}.")
        return reference_beam_search, max(1, batch_size // settings.num_beams)
    _log_once("Generating with the tree beam search.")
    return tree_beam_search, batch_size


def _groups_of_equal(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The numbers of equal prompts together. Embeddings are taken to differ unless they are one tensor."""
    groups: dict[object, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(id(prompt) if isinstance(prompt, Tensor) else tuple(prompt), []).append(number)
    return list(groups.values())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def _log_once(message: str) -> None:
    if message not in _already_logged:
        _already_logged.add(message)
        _logger.info(message)
