"""Self-distillation by an engine outside: what it is asked, and what its answers are worth here.

The SFT model's answers may come from vLLM or any other program that speaks the protocol of `engine_exchange`.
They are taken only if base model, SFT weights, tokenizer, prompts and limits are, bit for bit, those of the export.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_soft.engine_exchange import (
    Answer,
    Answers,
    Export,
    Sampling,
    question_id,
    read_answers,
    read_export,
    write_export,
)
from recbole_soft.errors import DataError, SettingError
from recbole_soft.models.base import LLMRecommender
from recbole_soft.strategies.base import StageContext

WEIGHTS = "sft"
# What the parts of a teacher are called in messages.
_PARTS = {"base": "the base model (or its precision)", "tokenizer": "the tokenizer", "weights": "the SFT weights",
          "scale": "lora_alpha", "prompts": "the prompts of the training windows",
          "max_tokens": "the longest answer", "stop": "the end-of-text token"}


def check_askable(config: Any, model: type[LLMRecommender]) -> None:
    """Raises SettingError where an engine outside would answer other questions than the model is asked here."""
    itself = "or leave self-distillation to the run itself"
    if not model.prompts_are_text:
        raise SettingError(f"prompts of {model.name} hold items as vectors, and an engine outside reads tokens alone",
                           where="model", remedy=f"--model=BIGRec_SOFT, {itself}")
    if config["decoding"] == "constrained":
        raise SettingError("decoding = constrained: an engine outside knows no catalogue and answers freely",
                           where="decoding", remedy=f"--decoding=free, {itself}")
    if config["quantization"] != "none":
        raise SettingError(f"quantization = {config['quantization']}: an engine outside quantises the base model "
                           "in its own way, and the SFT weights belong to ours", where="quantization",
                           remedy=f"--quantization=none, {itself}")


def ask(context: StageContext, folder: Path, sampling: Sampling, about: Mapping[str, Any]) -> Export:
    """Writes the questions of all training windows; the SFT weights are switched on or in memory as `sft`.

    Args:
        folder: where to.
        sampling: how to answer.
        about: what else engine.json says.

    Raises:
        SettingError: the folder holds answers to other questions.
    """
    model, windows = context.model, context.windows
    prompts = {question_id(prompt): prompt for prompt in windows.prompts}
    limit = model.beams.max_new_tokens
    base = Path(model.backbone.model.name_or_path)
    return write_export(
        folder, {
            **about, "weights": WEIGHTS, "model": str(base.resolve() if base.is_dir() else base),
            "revision": context.config["llm_revision"], "tuning": context.config["tuning"],
            "lora_rank": context.config["lora_r"] if context.config["tuning"] == "lora" else None,
            "dtype": str(model.backbone.model.dtype).removeprefix("torch."),
            "max_tokens": limit, "stop_token_ids": model.backbone.ends,
            "max_model_len": max(map(len, windows.prompts)) + limit, "windows": len(windows),
        },
        teacher_of(context), sampling,
        {name: (prompt, model.prompt_text(prompt)) for name, prompt in prompts.items()})


def teacher_of(context: StageContext) -> dict[str, Any]:
    """Everything by which the SFT model, its prompts and its limits can be told from others."""
    model, windows = context.model, context.windows
    distinct = sorted({question_id(prompt) for prompt in windows.prompts})
    return {
        "base": model.base_fingerprint, "tokenizer": model.backbone.tokenizer.fingerprint,
        "weights": state_fingerprint(model.weights.state(WEIGHTS)),
        "scale": float(context.config["lora_alpha"]) if context.config["tuning"] == "lora" else None,
        "prompts": hashlib.sha256("".join(distinct).encode()).hexdigest()[:16],
        "max_tokens": model.beams.max_new_tokens, "stop": model.backbone.ends,
    }


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Hash of every byte of a set of weights (not a sample: two trainings may differ in a few numbers only)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class EngineAnswers:
    """Answers of an engine to the prompts of this run.

    Args:
        context: the stage that wants them; the SFT weights are in memory as `sft`.
        folder: of the export.
        pick: `best`, or `all` of several drawn answers.

    Raises:
        DataError: they are incomplete, or answers of another model or to other prompts.
    """

    def __init__(self, context: StageContext, folder: Path, pick: str):
        self._context, self._pick = context, pick
        check_askable(context.config, type(context.model))
        self._export = read_export(folder)
        self._check_teacher()
        self._answers: Answers = read_answers(self._export)
        self._check_answers()

    def deciding(self) -> dict[str, Any]:
        """What decides which answers are trained on; part of the key of the self-distilled set."""
        return {"export": self._export.about["key"], "answers": self._answers.fingerprint, "pick": self._pick,
                "length_penalty": self._context.model.beams.length_penalty}

    def about(self) -> dict[str, Any]:
        """What the run's record says of them."""
        return {"folder": str(self._export.folder), "sampling": dict(self._export.about["sampling"]),
                "pick": self._pick, "questions": len(self._export.ids), "sessions": list(self._answers.sessions)}

    def texts(self) -> list[list[str]]:
        """Raw texts, one list per answer that is kept of a question, each with one entry per window."""
        penalty = self._context.model.beams.length_penalty
        decode = self._context.model.backbone.tokenizer.decode
        kept = {name: answers if self._pick == "all" else (max(answers, key=lambda one: one.score(penalty)),)
                for name, answers in self._answers.by_id.items()}
        text_of = {name: [decode(_without(answer, self._stops)) for answer in answers]
                   for name, answers in kept.items()}
        of_window = [text_of[question_id(prompt)] for prompt in self._context.windows.prompts]
        return [list(texts) for texts in zip(*of_window, strict=True)]

    @property
    def _stops(self) -> Sequence[int]:
        return self._export.about["teacher"]["stop"]

    def _check_teacher(self) -> None:
        theirs, ours = self._export.about["teacher"], teacher_of(self._context)
        changed = [part for part in ours if theirs.get(part) != ours[part]]
        if not changed:
            return
        # Other data or settings train other weights: the cause is named, not its consequences.
        cause = [part for part in changed if part != "weights"] or changed
        folder = self._export.folder
        raise DataError(
            f"the answers are another model's: {', '.join(_PARTS[part] for part in cause)} changed since the export",
            where=f"self_distilled={folder}",
            remedy=f"--sft_adapter={folder / WEIGHTS} takes the weights of the export" if cause == ["weights"] else
            "give the settings of the export (engine.json has them as `run`), or export again")

    def _check_answers(self) -> None:
        vocabulary = len(self._context.model.backbone.tokenizer.hf)
        answers = self._answers.by_id
        strange = [name for name, of_name in answers.items()
                   if any(max(answer.token_ids, default=0) >= vocabulary for answer in of_name)]
        if strange:
            raise DataError(f"tokens beyond the vocabulary of {vocabulary:,} in answers to {len(strange):,} prompts, "
                            f"for instance {strange[0]}: the engine ran another model",
                            where=str(self._export.folder), remedy="answer with the model that engine.json names")
        is_chosen = self._pick == "best" and self._export.sampling.answers > 1
        silent = [name for name, of_name in answers.items() if any(answer.logprob is None for answer in of_name)]
        if is_chosen and silent:
            raise DataError(f"no log-probabilities for {len(silent):,} prompts: none of their answers is the best",
                            where=str(self._export.folder),
                            remedy="--engine_pick=all, or an engine that reports `logprob`")


def _without(answer: Answer, stops: Sequence[int]) -> Sequence[int]:
    """Tokens up to the first stop token."""
    tokens = answer.token_ids
    return tokens[: next((place for place, token in enumerate(tokens) if token in stops), len(tokens))]


def draw(choices: Sequence[Sequence[list[int]]], seed: int, epoch: int) -> list[list[int]]:
    """One of several answers per window, drawn for an epoch from seed and epoch alone.

    Args:
        choices: one sequence per answer that was kept, each with one entry per window.
    """
    picks = np.random.default_rng([seed, epoch]).integers(len(choices), size=len(choices[0]))
    return [choices[pick][window] for window, pick in enumerate(picks)]
