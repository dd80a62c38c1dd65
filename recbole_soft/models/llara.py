"""LLaRA under full ranking: BIGRec whose prompts show every history item also as a vector.

Liao et al., "LLaRA: Large Language-Recommendation Assistant" (SIGIR 2024), as the SOFT paper uses it: behind
each history title stands a token whose input embedding is the projected item embedding of a SASRec. No
candidates in the prompt; the answer is a title, grounded as BIGRec's.
Deviation: the placeholder is a registered special token, one per title, checked prompt by prompt (the SOFT code
looks for a piece of text that the Llama-3 tokenizer never yields there, so that nothing is injected).
Deviation: the projector is saved with every set of weights (LLaRA's own code loses it after a text-only batch).
Deviation: text-only prompts are plain BIGRec prompts (LLaRA's own code puts a constant random vector there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_soft.config.schema import Setting
from recbole_soft.llm.beam import Beam
from recbole_soft.llm.companion import CompanionWeights
from recbole_soft.llm.vector_tokens import VectorProjector, embed_prompts, register_placeholder
from recbole_soft.models.base import Tokens
from recbole_soft.models.bigrec import BIGRec
from recbole_soft.models.item_vectors import obtain_item_vectors
from recbole_soft.models.setup import artifact_store
from recbole_soft.prompts.item_tokens import ItemPromptEncoder

PROJECTOR_FILE = "projector.safetensors"
# Prompts whose input embeddings are in memory at once, in batches of generation.
BATCHES_EMBEDDED = 8


class LLaRA(BIGRec):
    """BIGRec whose prompts show each history item as a vector of SASRec, too."""

    name = "LLaRA"
    prompts_are_text = False
    settings = (
        Setting("rec_model_file", "path", None, "run folder of the model that gives item vectors (default: a SASRec "
                "is trained)"),
        Setting("rec_model_settings", "dict", None, "settings of the SASRec that is trained, for instance "
                "{weight_decay: 1.0e-5}"),
        Setting("llara_curriculum", "str", "none", "linear: from text-only to hybrid prompts in a fresh stage",
                choices=("none", "linear")),
    )

    def __init__(self, config, dataset) -> None:
        vectors = obtain_item_vectors(config, dataset, artifact_store(config))
        super().__init__(config, dataset)
        self.item_vectors = vectors
        self._table = self.backbone.model.get_input_embeddings()
        rows, width = self._table.weight.shape
        self.projector = VectorProjector(vectors.table, width).to(self.backbone.device)
        self.projector.draw(config["seed"])
        self.weights = CompanionWeights(
            self.weights, self.projector, self.projector.draw, PROJECTOR_FILE, vectors.fingerprint)
        placeholder = register_placeholder(self.backbone.tokenizer)
        self.item_prompts = ItemPromptEncoder(
            self.encoder, self.catalog.titles, placeholder, max(rows, len(self.backbone.tokenizer.hf)))
        self.item_prompts.check_room()

    # ---- windows to prompts ----------------------------------------------------------------------
    def prompts(self, interaction) -> list[Tokens]:
        """Prompt tokens of the windows; ids beyond the vocabulary are items. With demonstrations, text alone."""
        if self.selector is not None:
            return super().prompts(interaction)
        items = interaction[self.ITEM_SEQ].tolist()
        lengths = interaction[self.ITEM_SEQ_LEN].tolist()
        return self.item_prompts.prompts([row[:length] for row, length in zip(items, lengths, strict=True)])

    def prompts_in_training(self, prompts: Sequence[Tokens], progress: float, step: int) -> list[Tokens]:
        """With `llara_curriculum: linear` a window's prompt is hybrid with probability `progress`, else text-only.

        Deviation: drawn per window, not per batch, from the run's seed and the step alone: neither workers nor
        micro-batches nor a repeated run change a draw.
        """
        if self.options["llara_curriculum"] == "none":
            return list(prompts)
        generator = torch.Generator().manual_seed(self.options["seed"] * 1_000_003 + step)
        is_hybrid = (torch.rand(len(prompts), generator=generator) < progress).tolist()
        texts = iter(self.item_prompts.text_only([p for p, hybrid in zip(prompts, is_hybrid, strict=True)
                                                  if not hybrid]))
        return [prompt if hybrid else next(texts) for prompt, hybrid in zip(prompts, is_hybrid, strict=True)]

    def prompt_text(self, prompt: Tokens) -> str:
        """Words of a prompt without its item tokens."""
        return super().prompt_text([token for token in prompt if token < self.item_prompts.first_item_token])

    # ---- the language model ----------------------------------------------------------------------
    def model_inputs(self, prompts: Sequence[Tokens]) -> tuple[list[Tokens], list[Tensor]]:
        """Token ids and input embeddings of prompts; gradients of what is computed from them reach the projector."""
        return embed_prompts(self._table, self.projector, prompts, self.item_prompts.first_item_token)

    @torch.no_grad()
    def search(self, prompts: Sequence[Tokens], progress: Callable[[int], None] | None = None) -> list[list[Beam]]:
        """Best beams of prompts, from their input embeddings, of which only some are in memory at a time."""
        found: dict[int, list[Beam]] = {}
        at_once = BATCHES_EMBEDDED * self.options["generation_batch_size"]
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
        for first in range(0, len(by_length), at_once):
            numbers = by_length[first: first + at_once]
            _, embeddings = self.model_inputs([prompts[number] for number in numbers])
            found.update(zip(numbers, super().search(embeddings, progress), strict=True))
        return [found[number] for number in range(len(prompts))]

    def deciding(self) -> dict[str, Any]:
        """Item vectors and curriculum decide what is learned."""
        return {**super().deciding(), "item_vectors": self.item_vectors.fingerprint,
                "curriculum": self.options["llara_curriculum"]}

    def about(self) -> dict[str, Any]:
        """Where the item vectors come from."""
        return {**super().about(), "item_vectors": {
            "source": self.item_vectors.source, "reused": self.item_vectors.reused,
            "fingerprint": self.item_vectors.fingerprint, "size": self.item_vectors.table.shape[1]}}
