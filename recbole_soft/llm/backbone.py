"""Loads a causal language model: a Hugging Face id or a folder, any architecture, one path for all.

Knows how to load and identify a model; nothing of adapters, prompts or recommendation.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from recbole_soft.errors import ModelError
from recbole_soft.llm.fingerprint import weights_fingerprint
from recbole_soft.llm.hub import hub_answers
from recbole_soft.llm.quantization import (
    NONE,
    about_quantization,
    check_sizes,
    count_parameters,
    keep_gradients_after_evaluation,
    loading_options,
)
from recbole_soft.llm.tokenizer import LLMTokenizer
from recbole_soft.parallel.group import processes_of_run
from recbole_soft.parallel.slices import slice_model

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The hub gets the name of the model that was asked for and nothing else: no telemetry, no orders to convert weights.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

_REMEDY_PICKLE = ("take a revision or another model with *.safetensors; or, if you trust this one, convert it once: "
                  "AutoModelForCausalLM.from_pretrained(ID).save_pretrained(FOLDER), and its tokenizer likewise")
# What a failure to load says -> what to do about it; the first that fits counts.
_REMEDIES = (
    (("gated repo", "401 client", "403 client", "'401 ", "'403 "),
     "accept the model's licence on its Hugging Face page and log in with: hf auth login"),
    (("trust_remote_code",), "--trust_remote_code=true, if you trust the code that comes with it"),
    (("for this kind of automodel",), "give a causal (decoder-only) language model, such as Llama, Qwen or GPT-2"),
    (("does not recognize this architecture",), "pip install --upgrade transformers, or choose another model"),
    (("cannot be loaded with `safetensors`",), _REMEDY_PICKLE),
    (("scaled_dot_product_attention",), "--attn_implementation=eager"),
    (("mismatched_sizes",), "config.json and the weights belong to different models: copy both from the same one"),
)
# What transformers raises where files are damaged, or settings in them make no sense.
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, ImportError, RuntimeError,
                   SafetensorError)
_REMEDY_FOLDER = "check that the folder is complete and that no file is cut short"
_REMEDY_HUB = ("check the id and the network, or download the model elsewhere and give its folder: "
               "--llm_path=/path/to/folder; without any model: --llm=tiny")


@dataclass(frozen=True)
class LoadSettings:
    """How to load a model; the fields are the settings of the same names."""

    llm_path: str
    device: torch.device
    dtype: str = "auto"
    quantization: str = "none"
    attn_implementation: str = "sdpa"
    pad_token: str = "auto"  # noqa: S105  a token of text
    trust_remote_code: bool = False
    llm_revision: str | None = None
    shard_model: bool = False


@dataclass(frozen=True)
class Backbone:
    """A loaded language model and its tokenizer; `quantization` and `sharding` are for the record.

    Attributes:
        known_fingerprint: of weights that can no longer be read as a whole.
        stop_ids: tokens at which the checkpoint's own answers end, such as the end of a chat's turn.
    """

    model: nn.Module
    tokenizer: LLMTokenizer
    device: torch.device
    quantization: dict[str, Any] | None = None
    sharding: dict[str, Any] | None = None
    known_fingerprint: str | None = None
    stop_ids: tuple[int, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the model as it was when first asked for."""
        return self.known_fingerprint or weights_fingerprint(self.model)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's end of text, and the checkpoint's own (the end of a turn)."""
        return sorted({self.tokenizer.eos_id, *self.stop_ids})

    @property
    def hidden_size(self) -> int:
        return self.model.config.get_text_config().hidden_size

    @property
    def parameter_count(self) -> int:
        return count_parameters(self.model)

    @property
    def longest_input(self) -> int | None:
        """Tokens that the model has positions for, where it says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def load_backbone(settings: LoadSettings) -> Backbone:
    """Loads model and tokenizer.

    Raises:
        ModelError: a folder without weights or tokenizer, files that are cut short or do not belong together,
            a gated or absent hub id, a missing library.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    _check_folder(settings.llm_path)
    common = {"trust_remote_code": settings.trust_remote_code, "revision": settings.llm_revision,
              "local_files_only": not Path(settings.llm_path).is_dir() and not hub_answers()}
    try:
        hf_tokenizer = AutoTokenizer.from_pretrained(settings.llm_path, **common)
        if settings.quantization != NONE:
            check_sizes(settings.quantization, AutoConfig.from_pretrained(settings.llm_path, **common),
                        settings.llm_path, settings.device, _dtype(settings), settings.trust_remote_code)
        model, loading = AutoModelForCausalLM.from_pretrained(
            settings.llm_path, dtype=_dtype(settings), attn_implementation=settings.attn_implementation,
            output_loading_info=True, use_safetensors=True, **common,
            **loading_options(settings.quantization, settings.device, _dtype(settings)),
        )
    except (*_LOADING_ERRORS, StrictDataclassError) as error:
        raise _explained(settings.llm_path, error) from error
    _check_weights(settings.llm_path, loading["missing_keys"])
    tokenizer = LLMTokenizer(hf_tokenizer, settings.pad_token)
    _fit_embeddings(settings.llm_path, model, tokenizer)
    sharding = settings.shard_model and processes_of_run()[0] > 1
    if settings.quantization == NONE and not sharding:
        model.to(settings.device)
    keep_gradients_after_evaluation(model)
    _check_quantized(settings, model, tokenizer.eos_id)
    # A checkpoint's sampling defaults must never reach our decoding.
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, (list, tuple)) else [] if stops is None else [stops]
    model.generation_config = type(model.generation_config)()
    backbone = Backbone(model.eval(), tokenizer, settings.device, about_quantization(settings.quantization, model),
                        stop_ids=tuple(stops))
    return _sharded(backbone) if sharding else backbone


def _sharded(backbone: Backbone) -> Backbone:
    """The model with layers that every process keeps a piece of. It never lies on a GPU as a whole."""
    fingerprint = backbone.fingerprint
    sliced = slice_model(backbone.model, backbone.device)
    pieces = {"processes": processes_of_run()[0], "layers_mb": round(sliced.bytes_kept / 1e6, 3)}
    return replace(backbone, sharding=pieces, known_fingerprint=fingerprint)


def recompute_activations(model: nn.Module) -> None:
    """Trades time for memory in training: activations are computed again in the backward pass."""
    # transformers 5 renamed it and warns of the old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.enable_input_require_grads()


def _dtype(settings: LoadSettings) -> torch.dtype:
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    has_bf16 = settings.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def _check_quantized(settings: LoadSettings, model: nn.Module, token: int) -> None:
    """Reads one token: what the trials of single layers cannot tell, the whole model does."""
    if settings.quantization == NONE:
        return
    try:
        with torch.no_grad():
            model.eval()(torch.tensor([[token]], device=settings.device))
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        raise ModelError(f"bitsandbytes cannot run this model in {settings.quantization}: {error}",
                         where=f"llm_path={settings.llm_path}", remedy="--quantization=none") from error


def _check_folder(llm_path: str) -> None:
    folder = Path(llm_path)
    if not folder.is_dir():
        if folder.is_absolute() or llm_path.startswith((".", "~")) or llm_path.count("/") > 1:
            raise ModelError("there is no such folder", where=f"llm_path={llm_path}",
                             remedy="give a folder with config.json, or a Hugging Face id such as "
                                    "meta-llama/Llama-3.2-3B")
        return
    names = {entry.name for entry in folder.iterdir()}
    has_weights = any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names)
    if not has_weights and any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names):
        raise ModelError("the model folder has its weights as a pickle only, which can run code when it is read",
                         where=f"llm_path={llm_path}", remedy=_REMEDY_PICKLE)
    has_tokenizer = bool(names & {"tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model"})
    _check_index(folder / "model.safetensors.index.json")
    for present, what in ((("config.json" in names), "config.json"), (has_weights, "weights (*.safetensors)"),
                          (has_tokenizer, "tokenizer (tokenizer.json)")):
        if not present:
            raise ModelError(f"the model folder has no {what}", where=f"llm_path={llm_path}",
                             remedy="save the model and its tokenizer there with save_pretrained()")


def _check_index(path: Path) -> None:
    """The files that a checkpoint in parts names must lie in its folder."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values() if path.is_file() else ()
        outside = [part for part in parts if Path(part).name != part]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the list of the checkpoint's parts cannot be read: {error}", where=f"llm_path={path.parent}",
                         remedy=_REMEDY_FOLDER) from error
    if outside:
        raise ModelError(f"a part of the checkpoint leaves its folder: {outside[0]}", where=f"llm_path={path.parent}",
                         remedy="do not use this checkpoint; tell who offers it")


def _check_weights(llm_path: str, missing: set[str]) -> None:
    """transformers fills what a checkpoint lacks with random numbers; that would be no language model."""
    if missing:
        raise ModelError(
            f"the checkpoint lacks {len(missing)} of the model's weights, for instance {sorted(missing)[0]}",
            where=f"llm_path={llm_path}", remedy="config.json and the weights must belong to the same model, with its "
            "output head; save it with AutoModelForCausalLM and save_pretrained()")


def _fit_embeddings(llm_path: str, model: nn.Module, tokenizer: LLMTokenizer) -> None:
    """Room for tokens that were added to a tokenizer (padding); never fewer rows than the model has."""
    rows = model.get_input_embeddings().weight.shape[0]
    if max(tokenizer.hf.vocab_size - 1, tokenizer.eos_id) >= rows:
        raise ModelError(f"the tokenizer knows {tokenizer.hf.vocab_size} tokens, the model only {rows}",
                         where=f"llm_path={llm_path}", remedy="put the model's own tokenizer into the folder")
    if len(tokenizer.hf) > rows:
        model.resize_token_embeddings(len(tokenizer.hf), mean_resizing=False)
        _fill_new_rows(model, rows)


@torch.no_grad()
def _fill_new_rows(model: nn.Module, known: int) -> None:
    """Rows beyond the `known` ones become their mean; transformers draws them at random."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    tables = [table for layer in layers for table in (layer.weight, getattr(layer, "bias", None)) if table is not None]
    for table in {id(table): table for table in tables}.values():  # tied ones are one
        table[known:] = table[:known].float().mean(0).to(table)


def _explained(llm_path: str, error: Exception) -> ModelError:
    text = str(error)
    remedy = next((remedy for words, remedy in _REMEDIES if any(word in text.lower() for word in words)),
                  _REMEDY_FOLDER if Path(llm_path).is_dir() else _REMEDY_HUB)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    first_line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if "mismatched_sizes" in text:  # the first line points to a report that nobody sees
        first_line = "the weights have other sizes than config.json says"
    return ModelError(f"the language model cannot be loaded: {first_line}", where=f"llm_path={llm_path}", remedy=remedy)
