"""The plain way to score responses, and what keeps a model from the packed way.

Every response is appended to its prompt and run as a sequence of its own, with the model's own forward and a
2-D attention mask: slow, and right for any causal language model. It is the fallback of `score.py` and what
its results are checked against. Knows nothing of packing.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_soft.errors import ModelError
from recbole_soft.llm.architecture import COLUMN_MASKED, causal_language_model, rope_reason, shortest_window
from recbole_soft.llm.masked_softmax import MaskedSoftmax

Tokens = Sequence[int]

_MASKABLE_ATTENTION = ("sdpa", "eager")
_NEEDED_ARGUMENTS = ("attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache")


def plain_nll(
    model: nn.Module,
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    prompt_embeddings: Sequence[Tensor] | None = None,
    masked: MaskedSoftmax | None = None,
) -> Tensor:
    """Negative log-likelihood `[B]` of each response after its prompt, one full sequence per response.

    Equals the sum of the token losses that Hugging Face computes from `labels` with the prompt set to -100.

    Raises:
        ModelError: for an encoder-decoder model.
    """
    config = causal_language_model(model).config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            "an encoder-decoder model cannot be tuned here",
            str(config.model_type),
            "take a causal language model",
        )
    device = causal_language_model(model).get_input_embeddings().weight.device
    sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    real = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (prompt, sequence) in enumerate(zip(prompts, sequences, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        real[row, : len(sequence)] = 1
        labels[row, len(prompt) : len(sequence)] = ids[row, len(prompt) : len(sequence)]
    ids, real, labels = ids.to(device), real.to(device), labels.to(device)
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if prompt_embeddings is not None:
        inputs = {"inputs_embeds": _padded_embeddings(model, ids, prompt_embeddings)}
    logits = model(**inputs, attention_mask=real, use_cache=False).logits[:, :-1]
    labels = labels[:, 1:].to(logits.device)
    if masked is not None:
        return _masked_nll(at_least_float32(logits), labels, responses, masked)
    losses = functional.cross_entropy(
        at_least_float32(logits).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
    )
    return losses.view(labels.shape).sum(dim=1)


def _masked_nll(logits: Tensor, labels: Tensor, responses: Sequence[Tokens], masked: MaskedSoftmax) -> Tensor:
    """`[B]` from logits `[B, L, V]` and labels `[B, L]`, over the tokens that `masked` allows."""
    is_token = labels != -100
    tokens = labels[is_token].cpu()
    nll = masked.nll(logits[is_token], torch.arange(len(tokens)), tokens, masked.states(responses))
    window = is_token.nonzero()[:, 0]
    return torch.zeros(len(labels), dtype=nll.dtype, device=nll.device).index_add(0, window, nll)


def _padded_embeddings(model: nn.Module, ids: Tensor, prompt_embeddings: Sequence[Tensor]) -> Tensor:
    """Embeddings `[B, L, d]` of `ids` with the given ones in place of the prompts'."""
    embedded = causal_language_model(model).get_input_embeddings()(ids)
    rows = []
    for row, given in enumerate(prompt_embeddings):
        rows.append(torch.cat([given.to(embedded), embedded[row, len(given) :]]))
    return torch.stack(rows)


def at_least_float32(values: Tensor) -> Tensor:
    """`values`, in 32 bits if they have fewer."""
    return values if values.dtype == torch.float64 else values.float()


def reason_against_packing(model: nn.Module, longest: int) -> str | None:
    """Why a model cannot run packed rows, as far as its settings tell; None if nothing speaks against it.

    Args:
        model: a causal language model, with or without adapter.
        longest: tokens of the longest prompt and response together.
    """
    causal = causal_language_model(model)
    config = causal.config.get_text_config(decoder=True)
    if getattr(causal.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _MASKABLE_ATTENTION:
        return f"the attention implementation '{attention}' takes no 4-D mask"
    if config.model_type in COLUMN_MASKED:
        return "it masks by the place in the row"
    if getattr(config, "alibi", False):
        return "its attention depends on the distance in the row (ALiBi)"
    accepted = inspect.signature(causal.base_model.forward).parameters
    missing = [name for name in _NEEDED_ARGUMENTS if name not in accepted]
    if missing:
        return f"its forward takes no {', '.join(missing)}"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "its adapter prepends virtual tokens"
    window = shortest_window(config)
    if window is not None and longest > window:
        return f"its attention window of {window} tokens is shorter than the longest sequence ({longest})"
    return rope_reason(config, longest)
