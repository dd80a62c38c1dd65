"""``transformers``' own beam search behind our types: the fallback, and the measure of the tree search.

Nothing of a checkpoint's own generation settings takes part: many ask for sampling or a repetition penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from recbole_soft.llm.beam import Beam, BeamSettings
from recbole_soft.llm.tree_decoder import Prompt, left_pad
from recbole_soft.llm.trie import ROOT, TokenTrie

_NO_BEAM = -1e8
"""``transformers`` scores places that no beam fills with about -1e9."""


@torch.no_grad()
def reference_beam_search(
    model: nn.Module,
    prompts: Sequence[Prompt],
    settings: BeamSettings,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int = 8,
    trie: TokenTrie | None = None,
    progress: Callable[[list[int]], None] | None = None,
) -> list[list[Beam]]:
    """Searches the best answers to every prompt with ``generate``; arguments and result as ``tree_beam_search``.

    Prompts are padded on the left, in batches of ``batch_size`` in the order given.
    """
    found: list[list[Beam]] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        found += _search_batch(model, batch, settings, eos_ids, pad_id, trie)
        if progress is not None:
            progress(list(range(start, len(found))))
    return found


def _search_batch(
    model: nn.Module,
    prompts: Sequence[Prompt],
    settings: BeamSettings,
    eos_ids: Sequence[int],
    pad_id: int,
    trie: TokenTrie | None,
) -> list[list[Beam]]:
    config = _generation_config(settings, settings.steps(trie), eos_ids, pad_id)
    width = max(map(len, prompts))
    inputs = left_pad(prompts, width, pad_id, model.device)
    inputs["attention_mask"] = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device
    )
    # generate() returns ids behind the prompt's ids, but new tokens alone behind embeddings.
    offset = width if "input_ids" in inputs else 0
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


@contextmanager
def _without_own_generation_config(model: nn.Module) -> Iterator[None]:
    """``generate`` fills every value we leave open from the checkpoint's own settings, if there are any."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
