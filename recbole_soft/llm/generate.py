"""Answers of a language model to many prompts: which search runs, in which batches, in which order.

Takes the tree search wherever the model allows it and ``transformers``' own beam search otherwise, with the same
results. Equal prompts are run once; prompts of like length share a batch; what all prompts begin with is run once.
Knows nothing of what prompts or answers mean.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from recbole_soft.llm.beam import Beam, BeamSettings, tree_beam_search
from recbole_soft.llm.tree_decoder import Prompt, run_template
from recbole_soft.llm.tree_support import causal_model, supports_tree_search
from recbole_soft.llm.trie import ROOT, TokenTrie

__all__ = ["Beam", "BeamSettings", "generate", "reference_beam_search", "supports_tree_search"]

_logger = logging.getLogger("recbole_soft")
_already_logged: set[str] = set()

_NO_BEAM = -1e8
"""``transformers`` scores places that no beam fills with about -1e9."""


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
    inner = causal_model(model)
    if trie is not None:
        trie, eos_ids = trie.to(inner.device), (trie.eos_id,)
    found: list[list[Beam]] = [[] for _ in prompts]
    with _evaluating(inner):
        search, at_once = _choose(model, distinct, settings, batch_size, fast=fast, trie=trie)
        for start in range(0, len(by_length), at_once):
            batch = by_length[start : start + at_once]
            answers = search(
                inner, [distinct[index] for index in batch], settings, eos_ids=eos_ids, pad_id=pad_id, trie=trie
            )
            for index, beams in zip(batch, answers, strict=True):
                for member in groups[index]:
                    found[member] = beams
            if progress is not None:
                progress(sum(len(groups[index]) for index in batch))
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
    shared = _shared_length(prompts)
    template = run_template(causal_model(model), prompts[0][:shared]) if shared else None

    def search(*args, **kwargs) -> list[list[Beam]]:
        return tree_beam_search(*args, template=template, **kwargs)

    return search, batch_size


@torch.no_grad()
def reference_beam_search(
    model: nn.Module,
    prompts: Sequence[Prompt],
    settings: BeamSettings,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    trie: TokenTrie | None = None,
) -> list[list[Beam]]:
    """One batch through ``transformers``' ``generate``: what ``tree_beam_search`` is measured against.

    The arguments are those of ``tree_beam_search``. Nothing of the checkpoint's own generation settings takes
    part: many ask for sampling or a repetition penalty.
    """
    config = _generation_config(settings, settings.steps(trie), eos_ids, pad_id)
    inputs = _left_pad(prompts, pad_id, model.device)
    # generate() returns ids behind the prompt's ids, but new tokens alone behind embeddings.
    offset = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    processors = LogitsProcessorList([_CatalogueOnly(trie, offset)] if trie is not None else [])
    with _without_own_generation_config(model):
        output = model.generate(**inputs, generation_config=config, logits_processor=processors)
    answers = output.sequences[:, offset:].tolist()
    if settings.num_beams == 1:
        scores = _greedy_scores(output, answers, settings, eos_ids)
    else:
        scores = output.sequences_scores.tolist()
    beams = [_cut(tokens, score, eos_ids) for tokens, score in zip(answers, scores, strict=True)]
    of_prompts = [beams[start : start + settings.num_return] for start in range(0, len(beams), settings.num_return)]
    return [[beam for beam in row if _is_real(beam, settings, trie)] for row in of_prompts]


def _generation_config(settings: BeamSettings, steps: int, eos_ids: Sequence[int], pad_id: int) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return,
        max_new_tokens=steps,
        length_penalty=settings.length_penalty,
        early_stopping=False,
        repetition_penalty=1.0,
        eos_token_id=list(eos_ids),
        pad_token_id=pad_id,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=settings.num_beams > 1,
        output_logits=settings.num_beams == 1,
    )


class _CatalogueOnly(LogitsProcessor):
    """Keeps ``transformers``' beams inside the catalogue; walks each beam from the root, so it needs no memory."""

    def __init__(self, trie: TokenTrie, prompt_length: int):
        self._trie, self._prompt_length = trie, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        nodes = torch.full((len(input_ids),), ROOT, device=input_ids.device)
        for tokens in input_ids[:, self._prompt_length :].unbind(1):
            nodes = self._trie.step(nodes, tokens)
        return self._trie.mask_logits(scores, nodes)


def _greedy_scores(output, answers: list[list[int]], settings: BeamSettings, eos_ids: Sequence[int]) -> list[float]:
    """One beam is a greedy search to ``transformers``, which then gives no scores."""
    log_probs = torch.log_softmax(torch.stack(output.logits, dim=1).float(), dim=-1)
    tokens = torch.tensor(answers, device=log_probs.device)
    of_tokens = log_probs.gather(2, tokens.unsqueeze(-1)).squeeze(-1).tolist()
    lengths = [next((i + 1 for i, token in enumerate(row) if token in eos_ids), len(row)) for row in answers]
    return [sum(row[:length]) / length**settings.length_penalty for row, length in zip(of_tokens, lengths, strict=True)]


def _cut(tokens: list[int], score: float, eos_ids: Sequence[int]) -> Beam:
    end = next((index for index, token in enumerate(tokens) if token in eos_ids), None)
    return Beam(tuple(tokens[:end]), score, finished=end is not None)


def _is_real(beam: Beam, settings: BeamSettings, trie: TokenTrie | None) -> bool:
    length = len(beam.tokens) + beam.finished
    total = beam.score * length**settings.length_penalty
    return total > _NO_BEAM and (trie is None or beam.finished)


def _left_pad(prompts: Sequence[Prompt], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    width = max(map(len, prompts))
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    if isinstance(prompts[0], Tensor):
        embeddings = [prompt.to(device) for prompt in prompts]
        padded = nn.utils.rnn.pad_sequence(embeddings, batch_first=True, padding_side="left")
        return {"inputs_embeds": padded, "attention_mask": mask}
    rows = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows, device=device), "attention_mask": mask}


def _groups_of_equal(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The numbers of equal prompts together. Embeddings are taken to differ unless they are one tensor."""
    groups: dict[object, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(id(prompt) if isinstance(prompt, Tensor) else tuple(prompt), []).append(number)
    return list(groups.values())


def _shared_length(prompts: Sequence[Prompt]) -> int:
    """How many positions all prompts begin with; leaves each at least one of its own."""
    if isinstance(prompts[0], Tensor):
        shared = min(map(len, prompts))
        for prompt in prompts[1:]:
            equal = (prompt[:shared] == prompts[0][:shared]).all(-1)
            shared = int(equal.long().cumprod(0).sum())
    else:
        # In lexical order the first and the last differ earliest.
        ends = min(map(tuple, prompts)), max(map(tuple, prompts))
        pairs = enumerate(zip(*ends, strict=False))
        shared = next((index for index, (one, other) in pairs if one != other), min(map(len, ends)))
    return min(shared, min(map(len, prompts)) - 1)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@contextmanager
def _without_own_generation_config(model: nn.Module) -> Iterator[None]:
    """``generate`` fills every value we leave open from the checkpoint's own settings, if there are any."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _log_once(message: str) -> None:
    if message not in _already_logged:
        _already_logged.add(message)
        _logger.info(message)
