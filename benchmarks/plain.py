"""The published pipeline, written from its formulas: what our paths are measured against.

As in the published code of BIGRec, SOFT and S-DPO: every response in a full sequence of its own with logits for
all positions, beam search by `generate` on prompts in file order, texts embedded one by one through the whole
model with gradients on, ranks by sorting the catalogue twice. Written anew, shares no code with our paths.
What the published code does beyond that is left out, in its favour: loading the model again for every validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

Tokens = Sequence[int]
MICRO_BATCH = 8
GENERATION_BATCH = 8
EMBEDDING_BATCH = 16
MAX_NEW_TOKENS = 128


def padded(rows: Sequence[Tokens], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """Model inputs `[B, L]`, padded on the left, positions counted from each text's own beginning.

    The published training leaves positions out and so counts the padding. That changes nothing but rounding (rotary
    angles are in float32), yet enough to hide whether gradients are equal: 2e-4 instead of 5e-6, relative.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    positions = (mask.cumsum(1) - 1).clamp_(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def label_loss(model, prompts: Sequence[Tokens], responses: Sequence[Tokens], pad_id: int) -> Tensor:
    """[] mean loss of the response tokens as Hugging Face computes it from `labels`, prompts set to -100."""
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    inputs = padded(rows, pad_id, model.device)
    labels = inputs["input_ids"].clone()
    for row, response in enumerate(responses):
        labels[row, : labels.shape[1] - len(response)] = -100
    return model(**inputs, labels=labels).loss


def sequence_log_probabilities(model, prompts, responses: Sequence[Sequence[Tokens]], pad_id: int) -> Tensor:
    """[kinds, B] log-probability of responses, all kinds in one batch that repeats each prompt per kind."""
    rows = [[*prompt, *text] for of_kind in responses for prompt, text in zip(prompts, of_kind, strict=True)]
    lengths = [len(text) for of_kind in responses for text in of_kind]
    inputs = padded(rows, pad_id, model.device)
    ids = inputs["input_ids"]
    log_probabilities = model(**inputs).logits.float().log_softmax(-1)[:, :-1]
    of_tokens = log_probabilities.gather(2, ids[:, 1:, None]).squeeze(2)
    first = of_tokens.shape[1] - torch.tensor(lengths, device=ids.device)
    counted = torch.arange(of_tokens.shape[1], device=ids.device)[None, :] >= first[:, None]
    return (of_tokens * counted).sum(1).view(len(responses), len(prompts))


def softmax_dpo_loss(log_ratios: Tensor, beta: float) -> Tensor:
    """[] -log sigmoid(-log sum_j exp(beta (r_j - r_0))): S-DPO, the true item in row 0 of `[1 + N, B]`."""
    differences = beta * (log_ratios[1:] - log_ratios[:1])
    return -functional.logsigmoid(-torch.log(differences.exp().sum(0))).mean()


@torch.no_grad()
def beam_answers(model, prompts: Sequence[Tokens], beams: int, eos_id: int, pad_id: int) -> list[list[tuple[int, ...]]]:
    """Beams of each prompt, best first, as tokens up to the end-of-text token."""
    found: list[list[tuple[int, ...]]] = []
    for first in range(0, len(prompts), GENERATION_BATCH):
        inputs = padded(prompts[first: first + GENERATION_BATCH], pad_id, model.device)
        del inputs["position_ids"]  # `generate` makes the same ones
        output = model.generate(
            **inputs, num_beams=beams, num_return_sequences=beams, do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS, eos_token_id=eos_id, pad_token_id=pad_id, return_dict_in_generate=True,
            output_scores=True)
        rows = [tuple(row[: row.index(eos_id)] if eos_id in row else row)
                for row in output.sequences[:, inputs["input_ids"].shape[1]:].tolist()]
        found += [rows[start: start + beams] for start in range(0, len(rows), beams)]
    return found


def text_vectors(backbone, model, texts: Sequence[str]) -> Tensor:
    """[n, d] last hidden state at the last token; every text anew, all layers and all logits, gradients on."""
    tokenizer = backbone.tokenizer
    rows = [tokenizer.bos_ids + (body or [tokenizer.eos_id]) for body in tokenizer.encode(texts)]
    vectors = []
    with _all_trainable(model):
        for first in range(0, len(rows), EMBEDDING_BATCH):
            inputs = padded(rows[first: first + EMBEDDING_BATCH], tokenizer.pad_id, model.device)
            output = model(**inputs, output_hidden_states=True)
            vectors.append(output.hidden_states[-1][:, -1].detach())
    return torch.cat(vectors).float()


@contextmanager
def _all_trainable(model):
    """The published code loads a plain model, whose weights all ask for gradients."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def sorted_ranks(answers: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """[b] ranks of `targets` (rows of `items`), 1 being best: all distances, then two sorts of the catalogue."""
    ranks = torch.cdist(answers, items, p=2).argsort(dim=-1).argsort(dim=-1)
    return ranks[torch.arange(len(targets), device=ranks.device), targets] + 1


def curriculum_weight(distance: float, first_distance: float, alpha: float) -> float:
    """tau = min(1, exp(alpha (d_t / d_0 - 1)))   (SOFT paper)."""
    return min(1.0, math.exp(alpha * (distance / first_distance - 1)))
