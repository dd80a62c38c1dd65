"""May a model be run over branching prompts? Asked of its configuration first, then of the model itself.

The configuration settles what is known to be at odds with a tree (a short sliding window, flash attention, ...).
What it cannot settle, above all architectures that nobody has tried, a probe does: a few tokens are run as a tree
and as plain sequences, and the logits must agree. Knows nothing of beam search.
"""

from __future__ import annotations

import inspect
import weakref

import torch
from torch import Tensor, nn

from recbole_soft.llm.architecture import COLUMN_MASKED, causal_language_model, rope_reason, shortest_window
from recbole_soft.llm.quantization import is_eight_bit
from recbole_soft.llm.tree_decoder import TreeDecoder, run_template

_TREE_ATTENTION = ("sdpa", "eager")
"""The attention implementations that add a 4-D float mask to the scores."""

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""Largest difference of the logits in the probe, in units of how far two branches differ. Half precision rounds
coarsely; a wrong mask or position is off by about 1."""

_EIGHT_BIT_TOLERANCE = 0.1
"""Inputs are rounded to 8 bits, and large ones apart: which these are, the other rows of the batch decide."""

_probed: weakref.WeakKeyDictionary[nn.Module, tuple[str, str | None]] = weakref.WeakKeyDictionary()


def supports_tree_search(model: nn.Module, longest: int) -> str | None:
    """Why a model cannot be searched as a tree.

    Args:
        model: a causal language model, or a PEFT model around one. Probed once and remembered.
        longest: tokens of the longest prompt plus the most new tokens.

    Returns:
        None if it can, else the reason, fit for a log line.
    """
    reason = _reason_in_wrapper(model) or _reason_in_config(causal_language_model(model), longest)
    return reason or _reason_in_probe(causal_language_model(model))


def _reason_in_wrapper(model: nn.Module) -> str | None:
    for name, settings in getattr(model, "peft_config", {}).items():
        if getattr(settings, "is_prompt_learning", False):
            return f"adapter {name!r} prepends virtual tokens"
    return None


def _reason_in_config(model: nn.Module, longest: int) -> str | None:
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    config = model.config.get_text_config(decoder=True)  # of models that also see, the part that reads
    if config.model_type in COLUMN_MASKED:
        return "it masks by the place in the row"
    if "position_ids" not in inspect.signature(model.forward).parameters or getattr(config, "alibi", False):
        return "it takes no position ids"
    attention = getattr(model.config, "_attn_implementation", None)
    if attention not in _TREE_ATTENTION:
        return f"attention implementation {attention!r} takes no 4-D mask"
    window = shortest_window(config)
    if window is not None and window < longest:
        return f"its attention window of {window} tokens is shorter than the context of {longest}"
    return rope_reason(config, longest)


def _reason_in_probe(model: nn.Module) -> str | None:
    attention = model.config._attn_implementation
    if model not in _probed or _probed[model][0] != attention:
        _probed[model] = (attention, _probe(model))
    return _probed[model][1]


@torch.no_grad()
def _probe(model: nn.Module) -> str | None:
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        as_tree, as_sequences = _both_ways(model)
    # Whatever an unknown architecture stumbles over, the plain search remains; the reason is logged.
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"a trial run as a tree failed ({type(error).__name__}: {error})"
    finally:
        for module in in_training:
            module.training = True
    apart = (as_sequences[:, 1] - as_sequences[:, 2]).abs().max()
    worst = (as_tree - as_sequences).abs().max()
    tolerance = _TOLERANCE.get(model.dtype, 0.3)
    if is_eight_bit(model):
        tolerance = max(tolerance, _EIGHT_BIT_TOLERANCE)
    if worst > tolerance * apart:
        return f"a trial run as a tree was off by {float(worst / apart):.1%} of the difference between two branches"
    return None


def _both_ways(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits ``[2 prompts, 3, V]`` of two small trees: run as trees, and path by path.

    The three are the end of the prompt and two branches. The trees have a shared beginning, prompts of different
    lengths, and branches that change places.
    """
    size = model.get_input_embeddings().num_embeddings
    ids = [7 * number % size for number in range(1, 12)]
    prompts = [ids[:6], ids[:4]]
    first, second = [ids[7], ids[8]], [ids[9], ids[10]]
    parents = [1, 0]
    decoder = TreeDecoder(model, prompts, num_beams=2, pad_id=0, template=run_template(model, ids[:2]))
    prefilled = decoder.prefill()
    device = decoder.device
    decoder.step(torch.tensor([first] * 2, device=device), torch.zeros(2, 2, dtype=torch.int64, device=device))
    branches = decoder.step(torch.tensor([second] * 2, device=device), torch.tensor([parents] * 2, device=device))
    as_tree = torch.cat((prefilled.unsqueeze(1), branches), dim=1)

    def plain(ids: list[int]) -> Tensor:
        return model(input_ids=torch.tensor([ids], device=device)).logits[0, -1]

    endings = [[], *([first[parent], last] for parent, last in zip(parents, second, strict=True))]
    as_sequences = torch.stack([plain([*prompt, *ending]) for prompt in prompts for ending in endings])
    return as_tree.float(), as_sequences.view_as(as_tree).float()
