"""Trained weights of reusable stages, kept by everything that decides them, and given SFT adapters."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import content_key, file_hash, read_json, write_json
from recbole_soft.data.same_split import refuse_other_split
from recbole_soft.errors import ModelError
from recbole_soft.models.base import LLMRecommender, WindowTexts
from recbole_soft.parallel.group import is_first
from recbole_soft.strategies.base import Stage

logger = logging.getLogger("recbole_soft")
SUMMARY = "training.json"

DECIDING_SETTINGS = (
    "seed", "tuning", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "quantization", "dtype",
    "epochs", "learning_rate", "weight_decay", "warmup_steps", "clip_grad_norm", "train_batch_size",
    "micro_batch_size", "patience", "valid_metric", "mask_history", "num_beams", "max_new_tokens", "length_penalty",
    "decoding", "ranking", "embed_pooling", "cutoff_len", "fast_path", "gradient_checkpointing", "eval_step",
    "attn_implementation", "generation_batch_size", "metric_decimal_place",
)


def lacks_metrics(result: dict[str, Any] | None, config) -> bool:
    """Whether a kept validation result was made with other metrics or cut-offs than this run asks for."""
    wanted = {f"{name.lower()}@{k}" for name in config["metrics"] for k in config["topk"]}
    return bool(result) and not wanted <= set(result)


class StageWeights:
    """Keys, storage and reuse of the weights of stages.

    Attributes:
        keys: content key of the weights of every stage seen so far, by stage name.
    """

    def __init__(self, model: LLMRecommender, config):
        self._model, self._config = model, config
        self.keys: dict[str, str] = {}

    def key(self, stage: Stage, windows: WindowTexts, valid_data) -> str:
        """Hash of all that decides the stage's weights: model, words, data, settings, earlier stages."""
        given = self._given(stage)
        parts: dict[str, Any] = dict(given) if given else {
            "settings": {name: self._config[name] for name in (*DECIDING_SETTINGS, *stage.depends_on)},
            "train": (windows.prompts, windows.targets),
            "valid": valid_data.dataset.fingerprint() if valid_data is not None else None,
            "device": self._config["device"].type, "earlier": dict(self.keys),
        }
        self.keys[stage.name] = content_key(
            stage=stage.name, code=f"{type(stage).__module__}.{type(stage).__qualname__}", model=type(self._model).name,
            catalogue=self._model.catalog.fingerprint, base=self._model.base_fingerprint,
            tokenizer=self._model.backbone.tokenizer.fingerprint,
            template=self._model.encoder.template.fingerprint, deciding=self._model.deciding(), **parts)
        return self.keys[stage.name]

    def restore(self, stage: Stage, key: str, dataset) -> dict[str, Any] | None:
        """Loads weights that are given or kept; returns their training summary, None if there are none.

        Args:
            dataset: any split of this run.

        Raises:
            ModelError: the given weights are of another model, or were trained on another split of this data.
        """
        weights = self._model.weights
        given = self._given(stage)
        if given:
            self._check_given(Path(self._config["sft_adapter"]), dataset)
            weights.create(stage.name, self._config["seed"])
            weights.load(stage.name, Path(self._config["sft_adapter"]))
            logger.info("stage '%s' skipped: weights given by sft_adapter=%s", stage.name, self._config["sft_adapter"])
            return {"curves": [], "valid_score": float("nan"), "valid_result": {}}
        folder = self._model.store.find(f"stage-{stage.name}", key) if stage.is_reusable else None
        if folder is None:
            return None
        weights.create(stage.name, self._config["seed"])
        weights.load(stage.name, folder)
        logger.info("stage '%s' reused: the same settings were trained before (%s)", stage.name, folder)
        return read_json(folder / SUMMARY)

    def keep(self, stage: Stage, key: str, summary: dict[str, Any]) -> None:
        """Keeps the stage's weights for later runs."""
        if not stage.is_reusable or self._model.store.find(f"stage-{stage.name}", key) or not is_first():
            return
        with self._model.store.writing(f"stage-{stage.name}", key) as folder:
            self._model.weights.save(stage.name, folder)
            write_json(folder / SUMMARY, summary)

    def _check_given(self, folder: Path, dataset) -> None:
        """An adapter from a run folder must have been trained on this base model, and on nothing that this run is
        tested on, as far as the run's record tells. It may come from another data set.

        The same model in another precision or place has another fingerprint or path, but not both.
        """
        try:
            record = read_json(folder.parent / "run.json")
            theirs, is_same_data = record["language_model"], record["dataset"] == self._config["dataset"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if is_same_data:
            refuse_other_split(record, self._config, dataset, where=f"sft_adapter={folder}",
                               remedy="leave out sft_adapter to train one")
        ours = {"base_fingerprint": self._model.base_fingerprint, "path": self._model.backbone.model.name_or_path}
        if all(key in theirs and theirs[key] != value for key, value in ours.items()):
            raise ModelError(f"the adapter was trained on another base model: {theirs['path']}",
                             where=f"sft_adapter={folder}", remedy=f"--llm_path={theirs['path']}, or leave out "
                             "sft_adapter to train one on this model")

    def _given(self, stage: Stage) -> dict[str, str] | None:
        path = self._config["sft_adapter"]
        if stage.name != "sft" or not path:
            return None
        files = sorted(Path(path).glob("*.safetensors"))
        return {"given": [file_hash(file) for file in files]}
