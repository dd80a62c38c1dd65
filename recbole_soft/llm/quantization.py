"""Weights in 4 or 8 bits through bitsandbytes: whether the sizes can be computed, how they are loaded, what is left.

The only module that imports bitsandbytes. What it can compute differs between versions and processors, so every
size of layer is tried with random numbers on the device itself, before any weight is loaded. Knows nothing of
adapters or of what the model is used for.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from recbole_soft.errors import ModelError

NONE, FOUR_BIT, EIGHT_BIT = "none", "4bit", "8bit"
QUANTIZATION_TYPE = {FOUR_BIT: "nf4", EIGHT_BIT: "LLM.int8"}
# Rounding to 4 bits moves a product by about 10 %, to 8 bits by about 1 %; a misread layer is off by 100 %.
_LARGEST_ERROR = 0.4
# Rows that are tried of a layer: what decides is their length, and what is left over of their number.
_MOST_ROWS = 256
_FAILURES = (RuntimeError, ValueError, NotImplementedError, AssertionError, TypeError)


def import_bitsandbytes(kind: str) -> Any:
    """The library, without its warnings about kernels that it can do without.

    Raises:
        ModelError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"quantization={kind} needs bitsandbytes", where="quantization",
                         remedy='pip install "recbole_soft[quant]"')
    # On import it warns of kernels from the model hub; in 8 bits it warns in every product of a float32 model.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def loading_options(kind: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` needs to quantise while it loads; nothing for `none`.

    Args:
        dtype: of the layers that stay unquantised, and in which 4-bit layers compute.
    """
    if kind == NONE:
        return {}
    import_bitsandbytes(kind)
    from transformers import BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True) if kind == EIGHT_BIT else
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=QUANTIZATION_TYPE[kind], bnb_4bit_compute_dtype=dtype)
    )
    return {"quantization_config": config, "device_map": {"": device}}


def check_sizes(kind: str, config: Any, llm_path: str, device: torch.device, dtype: torch.dtype,
                trust_remote_code: bool = False) -> None:
    """Tries every size of layer that would be quantised; no weights are needed.

    Args:
        config: the model's transformers configuration, which decides the sizes.

    Raises:
        ModelError: bitsandbytes cannot compute a size on this device; names it and says why.
    """
    if kind == NONE:
        return
    import_bitsandbytes(kind)
    for name, (outputs, inputs) in layer_sizes(config, trust_remote_code).items():
        if reason := reason_against(kind, outputs, inputs, device, dtype):
            raise ModelError(
                f"bitsandbytes cannot compute '{name}' ({inputs} inputs, {outputs} outputs) in {kind} on this "
                f"{device.type}: {reason}", where=f"llm_path={llm_path}",
                remedy="--quantization=none, or a model whose widths are multiples of 64 (the embedded one: "
                       "--tiny_hidden_size=64 or 128)")


def layer_sizes(config: Any, trust_remote_code: bool = False) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the layers that quantisation would replace, one layer per size, by the layer's name."""
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    sizes: dict[tuple[int, int], str] = {}
    for name, module in model.named_modules():
        if module is model.get_output_embeddings() or not isinstance(module, (nn.Linear, Conv1D)):
            continue
        shape = tuple(module.weight.shape)
        sizes.setdefault(shape if isinstance(module, nn.Linear) else shape[::-1], name)
    return {name: size for size, name in sizes.items()}


def reason_against(kind: str, outputs: int, inputs: int, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a layer of this size cannot be used; None if it can.

    It is run as an answer is generated, then as in training, and both results are compared with those of the
    unquantised numbers. Rows of very different scale show numbers that are scaled by a neighbour's factor.
    """
    rows = outputs if outputs <= _MOST_ROWS else _MOST_ROWS + outputs % _MOST_ROWS
    source = torch.Generator().manual_seed(0)
    scale = 2.0 ** (torch.arange(rows) % 5).float()
    weight = torch.randn(rows, inputs, generator=source) * scale[:, None]
    given = torch.randn(4, inputs, generator=source).to(device, dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a warning would say, the comparison finds out
            layer = _quantized_layer(kind, weight, device, dtype)
            with torch.no_grad():
                answer = layer.eval()(given)
            given.requires_grad_(True)
            trained = layer.train()(given)
            trained.sum().backward()
    except _FAILURES as error:
        return f"{type(error).__name__}: {error}"
    wanted = given.detach().float().cpu() @ weight.T
    for what, found in (("generating", answer), ("training", trained.detach())):
        error = _relative_error(found.float().cpu() / scale, wanted / scale)
        if not error < _LARGEST_ERROR:
            return f"its results when {what} are off by {error:.0%}"
    if given.grad is None or not _relative_error(given.grad.float().cpu(), weight.sum(0).expand(4, -1)) < 1.0:
        return "after an evaluation it has no gradients any more"
    return None


def _quantized_layer(kind: str, weight: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    outputs, inputs = weight.shape
    if kind == FOUR_BIT:
        layer = bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=dtype,
                                  quant_type=QUANTIZATION_TYPE[kind])
        layer.weight = bnb.nn.Params4bit(weight.to(dtype), requires_grad=False, module=layer,
                                         quant_type=QUANTIZATION_TYPE[kind])
    else:
        layer = bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False, threshold=6.0)
        layer.weight = bnb.nn.Int8Params(weight.to(dtype), requires_grad=False, has_fp16_weights=False)
    layer = layer.to(device)
    keep_gradients_after_evaluation(layer)
    return layer


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def keep_gradients_after_evaluation(model: nn.Module) -> None:
    """Tells 4-bit layers not to repack their weights.

    bitsandbytes on a CPU with AVX512-BF16 repacks them in the first evaluation. The packed path has no gradient, so
    training would go on without an error and without learning, and it cannot take every size.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_eight_bit(model: nn.Module) -> bool:
    """Whether a model computes in 8 bits: its answers then depend a little on what else is in the batch."""
    return bool(getattr(model, "is_loaded_in_8bit", False))


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model; 4-bit weights are stored two to a byte and count as what they stand for."""
    stored = ((parameter, getattr(parameter, "quant_state", None)) for parameter in model.parameters())
    return sum(parameter.numel() if state is None else int(torch.Size(state.shape).numel())
               for parameter, state in stored)


def about_quantization(kind: str, model: nn.Module) -> dict[str, Any] | None:
    """For the record: which weights are quantised, which are not; None for an unquantised model."""
    if kind == NONE:
        return None
    import bitsandbytes as bnb

    layers = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    quantized = [name for name, module in model.named_modules() if isinstance(module, layers)]
    return {"bits": kind, "type": QUANTIZATION_TYPE[kind], "quantized_layers": len(quantized),
            "other_weights": str(model.dtype).removeprefix("torch."),
            "title_vectors": "of the quantised base model"}
