"""Negative log-likelihoods of responses, each prompt computed once however many responses it has.

What training with several responses per prompt costs when done plainly (every response behind its own copy of
the prompt, logits for all positions), and what is saved here without changing a loss or a gradient:

* the tokens that all prompts of the batch begin with run once, at batch size 1;
* the rest of each prompt runs once for all its responses, which branch off behind it (see `packing.py`), and
  its last layer stops at the keys and values, which are all that the responses read of it;
* responses that begin alike share those tokens; the last token of a response is never an input;
* the vocabulary head sees only positions that predict a response token;
* windows run in groups of similar length, so that little padding is computed.

A model that cannot do this is scored the plain way, and the reason is logged once. Knows nothing of losses:
the callers weigh, subtract and add what comes back. With active dropout the shared parts share its noise, so
that one prompt's responses (and, in the common beginning, the whole batch) see the same mask: each response
still meets dropout of the usual distribution, but the noise of different responses is no longer independent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from recbole_soft.llm.architecture import causal_language_model
from recbole_soft.llm.masked_softmax import MaskedSoftmax
from recbole_soft.llm.packed_forward import SHORTEST_SHARED_PREFIX, PackedRun
from recbole_soft.llm.packing import PackedRows, ResponseTree, Tokens, Window, group_by_length, pack_rows
from recbole_soft.llm.plain_score import (
    at_least_float32,
    plain_nll,
    reason_against_packing,
)
from recbole_soft.llm.quantization import is_eight_bit

logger = logging.getLogger("recbole_soft")

# Padding tokens worth computing to avoid starting one more group: measured on CPU, a guess elsewhere.
_GROUP_OVERHEAD = {"cpu": 128}
_GROUP_OVERHEAD_ELSEWHERE = 8192
# What a model raises that has no place for a cache, for positions or for a 4-D mask (IndexError, KeyError and
# NotImplementedError included).
_TRIAL_FAILURES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class ResponseScores:
    """Scores of one response per prompt.

    Attributes:
        nll: `[B]` float32 (float64 for a float64 model), sum over the response tokens of -log p(token |
            prompt, earlier tokens) in nats, differentiable; 0 for an empty response.
        tokens: `[B]` long, number of response tokens, on the same device.
    """

    nll: Tensor
    tokens: Tensor


def score_responses(
    model: nn.Module,
    prompts: Sequence[Tokens],
    responses: Mapping[str, Sequence[Tokens]],
    *,
    fast: bool = True,
    prompt_embeddings: Sequence[Tensor] | None = None,
    masked: MaskedSoftmax | None = None,
) -> dict[str, ResponseScores]:
    """Scores every response of every prompt.

    Train or eval mode is left as it is. The model is called from the inside, so pass it without a
    `DistributedDataParallel` wrapper (and average the gradients yourself).

    Args:
        model: causal language model, with or without a PEFT adapter.
        prompts: B non-empty token lists.
        responses: for every name B token lists, each with its end-of-text token; a list may be empty.
        fast: False scores the plain way.
        prompt_embeddings: B tensors `[len(prompt), d]` that replace the input embeddings of the prompts'
            tokens (for placeholders of items). Where prompts begin with equal tokens and equal embeddings,
            these are taken to stem from the same parameters and the gradient goes through the first prompt's.
        masked: scores over the tokens that it allows instead of over the vocabulary; see `MaskedSoftmax.nll`.

    Returns:
        The scores under each name.

    Raises:
        ValueError: an empty prompt, or lists of different lengths.
    """
    _check_batch(prompts, responses, prompt_embeddings)
    lengths = {
        name: torch.tensor([len(response) for response in of_name]) for name, of_name in responses.items()
    }
    longest = max(map(len, prompts)) + max((int(of_name.max()) for of_name in lengths.values()), default=0)
    reason = supports_packing(model, longest) if fast else None
    if fast and reason is None:
        nll = _packed_nll(model, prompts, list(responses.values()), prompt_embeddings, masked)
    else:
        if reason is not None:
            _log_once(f"responses are scored without sharing the prompt: {reason}")
        nll = [plain_nll(model, prompts, of_name, prompt_embeddings, masked) for of_name in responses.values()]
    return {
        name: ResponseScores(values, lengths[name].to(values.device))
        for name, values in zip(responses, nll, strict=True)
    }


def _check_batch(
    prompts: Sequence[Tokens],
    responses: Mapping[str, Sequence[Tokens]],
    prompt_embeddings: Sequence[Tensor] | None,
) -> None:
    if not prompts or not all(map(len, prompts)):
        raise ValueError("score_responses needs at least one prompt, and every prompt at least one token")
    for name, of_name in responses.items():
        if len(of_name) != len(prompts):
            raise ValueError(f"{len(of_name)} responses named '{name}' for {len(prompts)} prompts")
    if prompt_embeddings is not None and list(map(len, prompt_embeddings)) != list(map(len, prompts)):
        raise ValueError("prompt_embeddings must hold one vector per prompt token")


@lru_cache(maxsize=64)
def _log_once(message: str) -> None:
    logger.warning(message)


def supports_packing(model: nn.Module, longest: int) -> str | None:
    """Why `model` cannot run packed rows, None if it can.

    Settings are read first. Then, once per model, a short example is scored both ways in eval mode, which
    finds whatever the settings do not tell (a recurrent layer, an unknown scaling of the logits). Neither
    the mode nor the state of the random generators changes.

    Args:
        model: causal language model, with or without a PEFT adapter.
        longest: tokens of the longest prompt and response together.
    """
    return reason_against_packing(model, longest) or _trial_reason(model)


_trials: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def _trial_reason(model: nn.Module) -> str | None:
    causal = causal_language_model(model)
    if causal not in _trials:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            _trials[causal] = _run_trial(model)
        finally:
            for module, training in modes:
                module.training = training
    return _trials[causal]


def _run_trial(model: nn.Module) -> str | None:
    """Scores two prompts with two responses each both ways; the model is in eval mode."""
    vocabulary = causal_language_model(model).config.get_text_config(decoder=True).vocab_size
    text = [(7 * place + 3) % vocabulary for place in range(SHORTEST_SHARED_PREFIX + 10)]
    prompts = [text[: SHORTEST_SHARED_PREFIX + 4], [*text[: SHORTEST_SHARED_PREFIX + 1], text[0]]]
    responses = [[text[3:6], text[5:7]], [text[3:5], text[8:12]]]
    # Gradients stay on: on some CPUs bitsandbytes' 4-bit layers lose theirs for good in an eval pass without.
    with torch.enable_grad():
        plain = torch.stack([plain_nll(model, prompts, of_name) for of_name in responses]).detach()
        try:
            packed = torch.stack(_packed_nll(model, prompts, responses, None)).detach()
        except _TRIAL_FAILURES as error:
            return f"a packed trial run failed ({type(error).__name__}: {error})"
    is_coarse = (torch.is_autocast_enabled(plain.device.type) or _precision(model).itemsize < 4
                 or is_eight_bit(causal_language_model(model)))
    tolerance = 3e-2 if is_coarse else 1e-3
    error = ((packed - plain).abs() / (1 + plain.abs())).max().item()
    if error <= tolerance:
        return None
    return f"a packed trial run gave other scores (relative difference {error:.1e})"


def _packed_nll(
    model: nn.Module,
    prompts: Sequence[Tokens],
    responses: Sequence[Sequence[Tokens]],
    prompt_embeddings: Sequence[Tensor] | None,
    masked: MaskedSoftmax | None = None,
) -> list[Tensor]:
    """One `[B]` tensor of negative log-likelihoods per entry of `responses`."""
    causal = causal_language_model(model)
    device = causal.get_input_embeddings().weight.device
    windows = []
    for number, prompt in enumerate(prompts):
        tree = ResponseTree.grow(prompt[-1], [of_name[number] for of_name in responses])
        if tree.edges:
            windows.append(Window(number, prompt, tree))
    nll = torch.zeros(len(responses) * len(prompts), device=device)
    if windows:
        run = PackedRun(causal, windows, prompt_embeddings)
        overhead = _GROUP_OVERHEAD.get(device.type, _GROUP_OVERHEAD_ELSEWHERE)
        for group in group_by_length(windows, run.prefix_length, overhead):
            rows = pack_rows(group, len(prompts), run.prefix_length)
            edge_nll = _edge_nll(causal, run.node_states(rows), rows, masked)
            paths = rows.path_responses.to(edge_nll.device)
            nll = nll.to(edge_nll).index_add(0, paths, edge_nll[rows.path_edges.to(edge_nll.device)])
    return list(nll.view(len(responses), len(prompts)).unbind())


def _edge_nll(causal: nn.Module, node_states: Tensor, rows: PackedRows, masked: MaskedSoftmax | None) -> Tensor:
    """Negative log-likelihood `[E]` of every edge from the final hidden states `[R, nodes, d]`."""
    predictors = node_states.flatten(0, 1)[rows.predictors.to(node_states.device)]
    logits = at_least_float32(_adjusted_logits(causal, causal.get_output_embeddings()(predictors)))
    if masked is not None:
        trees = [window.tree for window in rows.windows]
        states = masked.states([[tree.edges[edge][1] for edge in path] for tree in trees for path in tree.paths])
        edge_states = torch.empty_like(rows.edge_tokens).index_copy_(0, rows.path_edges, states)
        uses = rows.path_edges.bincount(minlength=len(edge_states))
        return masked.nll(logits, rows.edge_predictors, rows.edge_tokens, edge_states, uses)
    log_probabilities = logits.log_softmax(dim=-1)
    return -log_probabilities[rows.edge_predictors.to(logits.device), rows.edge_tokens.to(logits.device)]


def _adjusted_logits(causal: nn.Module, logits: Tensor) -> Tensor:
    """What some families do to the logits behind their head (Granite, Cohere, Falcon-H1, Gemma 2)."""
    config = causal.config.get_text_config(decoder=True)
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    if getattr(config, "lm_head_multiplier", None):
        logits = logits * config.lm_head_multiplier
    if getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


def _precision(model: nn.Module) -> torch.dtype:
    return causal_language_model(model).get_input_embeddings().weight.dtype
