"""What every LLM recommender of ours is: prompts from windows, scored responses, answers, a ranking.

One base model in memory serves as teacher, student, encoder and reference; `weights` switches. A model file
adds how windows become prompts and how answers become scores. Knows nothing of strategies or optimisers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_soft.artifacts import ArtifactStore
from recbole_soft.data.catalog import Catalog
from recbole_soft.data.dataset import WINDOW_FIELD
from recbole_soft.demos.pool import Query
from recbole_soft.demos.select import Selector
from recbole_soft.errors import ModelError
from recbole_soft.llm.adapters import FullWeights, LoraSettings, LoraWeights, TunedWeights
from recbole_soft.llm.backbone import Backbone, recompute_activations
from recbole_soft.llm.beam import Beam, BeamSettings
from recbole_soft.llm.generate import generate
from recbole_soft.llm.masked_softmax import MaskedSoftmax
from recbole_soft.llm.score import ResponseScores, score_responses
from recbole_soft.llm.title_vectors import TitleVectors
from recbole_soft.llm.trie import TokenTrie
from recbole_soft.losses import mean_token_nll
from recbole_soft.models.answer_parts import BATCHES_IN_A_PART, key_of_answers, unfinished_parts
from recbole_soft.models.setup import artifact_store, open_backbone
from recbole_soft.resuming.parts import Parts

logger = logging.getLogger("recbole_soft")
Tokens = list[int]


@dataclass(frozen=True)
class WindowTexts:
    """Windows of a split, in text and tokens; all lists have one entry per window.

    Attributes:
        window_ids: the split's own ids.
        prompts: prompt tokens.
        targets: response tokens of the true items, end-of-text included.
        target_titles, target_categories: text of the true items.
        target_rows: [n] rows of the true titles in the item table.
        queries: user, time and history.
        shown_rows: rows of the titles that the split's windows show of the window's user (histories, targets, and
            what came before), ascending; nothing later than the user's last target in the split.
    """

    window_ids: list[int]
    prompts: list[Tokens]
    targets: list[Tokens]
    target_titles: list[str]
    target_categories: list[str]
    target_rows: Tensor
    shown_rows: list[np.ndarray]
    queries: tuple[Query, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)


class LLMRecommender(SequentialRecommender):
    """Base of the LLM recommenders; RecBole sees an ordinary sequential model.

    Attributes:
        prompts_are_text: whether a prompt is nothing but tokens of the language model's own vocabulary.
    """

    family = "llm"
    answers_with_titles = False  # whether windows are answered by a generated title
    prompts_are_text = True
    input_type = InputType.POINTWISE
    skip_flops = True

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.options = config
        self.catalog: Catalog = dataset.catalog
        self.store: ArtifactStore = artifact_store(config)
        self.parts: Parts = unfinished_parts(config)
        self.backbone, self.encoder = open_backbone(config, dataset, self.store)
        self.base_fingerprint = self.backbone.fingerprint
        self.base_parameters = self.backbone.parameter_count
        self.language_model = self.backbone.model
        self.weights: TunedWeights = _tuned_weights(config, self.backbone)
        self.title_vectors = TitleVectors(
            self.backbone, self.weights, self.catalog.unique_titles, config["embed_pooling"],
            config["embed_batch_tokens"], self.base_fingerprint, self.store, config["checkpoint_seconds"],
        )
        self.title_rows = torch.from_numpy(self.catalog.title_rows).to(self.backbone.device)
        self.beams, self.trie = self._search()
        self.selector: Selector | None = None
        self._answers: dict[tuple[int, ...], list[str]] = {}
        if config["gradient_checkpointing"]:
            recompute_activations(self.backbone.model)

    # ---- windows to text -------------------------------------------------------------------------
    def histories(self, interaction) -> list[list[str]]:
        """Titles of the histories, oldest first."""
        items = interaction[self.ITEM_SEQ].tolist()
        lengths = interaction[self.ITEM_SEQ_LEN].tolist()
        titles = self.catalog.titles
        return [[titles[item] for item in row[:length]] for row, length in zip(items, lengths, strict=True)]

    def prompts(self, interaction) -> list[Tokens]:
        """Prompt tokens of the windows, behind demonstrations if a selector of them is set."""
        return self._prompts_and_shown(interaction)[0]

    def queries(self, interaction) -> list[Query]:
        """The windows without their targets. A window without a time counts as earlier than all others."""
        ids, time_field = self._window_ids(interaction), self.options["TIME_FIELD"]
        times = interaction[time_field].tolist() if time_field in interaction else [float("-inf")] * len(ids)
        users = interaction[self.USER_ID].tolist() if self.USER_ID in interaction else [0] * len(ids)
        return [Query(window, user, time, tuple(history)) for window, user, time, history in zip(
            ids, users, times, self.histories(interaction), strict=True)]

    def _prompts_and_shown(self, interaction) -> tuple[list[Tokens], list[int]]:
        """Prompts, and how many demonstrations each shows."""
        histories = self.histories(interaction)
        if self.selector is None:
            return self.encoder.prompts(histories), [0] * len(histories)
        chosen = self.selector.select(self.queries(interaction))
        return self.encoder.demonstrated_prompts(
            histories, [[(shown.history, shown.answer) for shown in of_query] for of_query in chosen])

    def _window_ids(self, interaction) -> list[int]:
        return interaction[WINDOW_FIELD].tolist() if WINDOW_FIELD in interaction else list(range(len(interaction)))

    def prompts_in_training(self, prompts: Sequence[Tokens], progress: float, step: int) -> list[Tokens]:
        """What an optimiser step trains on in place of `prompts`; a model with a curriculum of prompts overrides it.

        Args:
            progress: share of the stage's steps that are done, in [0, 1]; 1 where a stage continues another.
            step: number of the step in the stage.
        """
        return list(prompts)

    def prompt_text(self, prompt: Tokens) -> str:
        """Words of a prompt."""
        return self.backbone.tokenizer.decode(prompt)

    def deciding(self) -> dict[str, Any]:
        """What decides weights and answers of this model alone, and is no setting of all; part of their keys."""
        return {}

    def about(self) -> dict[str, Any]:
        """What the run's record should say of this model beside its language model."""
        found = {"quantization": self.backbone.quantization, "sharding": self.backbone.sharding}
        return {name: value for name, value in found.items() if value is not None}

    def texts_of(self, dataset) -> WindowTexts:
        """Prompts and targets of all windows of a split."""
        interaction = dataset.inter_feat
        items = interaction[self.ITEM_ID].tolist()
        titles = [self.catalog.titles[item] for item in items]
        return WindowTexts(
            window_ids=self._window_ids(interaction), prompts=self.prompts(interaction),
            targets=self.encoder.responses(titles),
            target_titles=titles, target_categories=[self.catalog.categories[item] for item in items],
            target_rows=self.title_rows[torch.tensor(items, device=self.title_rows.device) - 1],
            queries=tuple(self.queries(interaction)),
            shown_rows=[np.unique(self.catalog.title_rows[shown - 1]) for shown in dataset.shown_items()],
        )

    # ---- the language model ----------------------------------------------------------------------
    def _search(self) -> tuple[BeamSettings, TokenTrie | None]:
        """How answers are searched: limits from the catalogue, and its trie when decoding is constrained."""
        options, eos = self.options, self.backbone.tokenizer.eos_id
        titles = [tokens[:-1] for tokens in self.encoder.responses(self.catalog.unique_titles)]
        is_constrained = options["decoding"] == "constrained"
        # Length normalisation favours titles with many near-certain tokens once every beam is a title
        # (Bao et al. 2024, "Decoding Matters").
        penalty = options["length_penalty"] if options["length_penalty"] is not None else float(not is_constrained)
        longest = max(map(len, titles)) + 1  # and the end-of-text token
        beams = BeamSettings(options["num_beams"], min(options["max_new_tokens"], longest), penalty,
                             options["num_beams"] if options["ranking"] == "beams" else 1)
        return beams, TokenTrie.build(titles, eos) if is_constrained else None

    def score(self, prompts: Sequence[Tokens], responses: Mapping[str, Sequence[Tokens]],
              masked: MaskedSoftmax | None = None) -> dict[str, ResponseScores]:
        """Negative log-likelihood of one or more responses per prompt, with gradients; `masked` for MSL's softmax."""
        tokens, embeddings = self.model_inputs(prompts)
        return score_responses(self.weights.model, tokens, responses, fast=self.options["fast_path"],
                               prompt_embeddings=embeddings, masked=masked)

    def model_inputs(self, prompts: Sequence[Tokens]) -> tuple[Sequence[Tokens], Sequence[Tensor] | None]:
        """Ids that the language model has, and input embeddings `[length, d]` in their place, if not its own."""
        return prompts, None

    def answer(self, prompts: Sequence[Tokens], progress: Callable[[int], None] | None = None) -> list[str]:
        """The best beam of every prompt as raw text, quotes and all."""
        return [beams[0] for beams in self.answer_beams(prompts, progress)]

    def answer_beams(
        self, prompts: Sequence[Tokens], progress: Callable[[int], None] | None = None
    ) -> list[list[str]]:
        """Returned beams of every prompt as raw text, best first; kept until the weights change."""
        wanted = [tuple(prompt) for prompt in prompts]
        unknown = [list(prompt) for prompt in dict.fromkeys(wanted) if prompt not in self._answers]
        unknown.sort(key=len, reverse=True)
        size = self.options["generation_batch_size"]

        def search(some: Sequence[Tokens]) -> list[list[str]]:
            beams = self.search(some, progress)
            if not all(beams):
                raise ModelError("the language model gives no answer: its scores are no numbers",
                                 where=f"learning_rate={self.options['learning_rate']}, dtype={self.options['dtype']}",
                                 remedy="give a lower --learning_rate, or --dtype=float32 or bfloat16")
            return [[self.backbone.tokenizer.decode(beam.tokens) for beam in best] for best in beams]

        texts = self.parts.gather("answers", lambda: key_of_answers(self, unknown), unknown,
                                  BATCHES_IN_A_PART * size, size, search, progress)
        self.remember_answers(unknown, texts)
        return [self._answers[prompt] for prompt in wanted]

    def search(
        self, prompts: Sequence[Tokens] | Sequence[Tensor], progress: Callable[[int], None] | None = None
    ) -> list[list[Beam]]:
        """Returned beams of every prompt (tokens or input embeddings) under the weights that are switched on."""
        return generate(
            self.weights.model, prompts, self.beams, eos_ids=self.backbone.ends,
            pad_id=self.backbone.tokenizer.pad_id, batch_size=self.options["generation_batch_size"],
            fast=self.options["fast_path"], trie=self.trie, progress=progress,
        )

    def answered_titles(self, prompts: Sequence[Tokens]) -> list[str]:
        """Answers without their quotes."""
        return [self.encoder.template.unquoted(text) for text in self.answer(prompts)]

    def remember_answers(self, prompts: Sequence[Tokens], beams: Sequence[list[str]]) -> None:
        """Takes answers for those of the active weights; beams as `answer_beams` returns them."""
        self._answers.update(zip(map(tuple, prompts), beams, strict=True))

    def forget_answers(self) -> None:
        """To be called whenever the active weights change."""
        self._answers.clear()

    # ---- what trainer and record ask ---------------------------------------------------------------
    def prepare(self, interaction, progress: Callable[[int], None] | None = None) -> None:
        """Works out what the scores of a whole split need, in batches of similar length, and remembers it."""
        self.title_vectors.table()
        self.answer(self.prompts(interaction), progress)

    def notes_on(self, interaction) -> dict[str, Any]:
        """What the record says about how windows were ranked, beside metrics; `caption` goes below the table."""
        if self.selector is None:
            return {}
        shown = self._prompts_and_shown(interaction)[1]
        counts = {"asked": self.selector.count * len(shown), "shown": sum(shown), "windows_without": shown.count(0)}
        if sum(shown) < counts["asked"]:
            logger.warning("demonstrations: %d of %d shown; for the others there was no room in cutoff_len=%d, or the "
                           "past has none", sum(shown), counts["asked"], self.encoder.cutoff_len)
        return {"demonstrations": counts}

    # ---- RecBole's interface ---------------------------------------------------------------------
    def calculate_loss(self, interaction) -> Tensor:
        """[] mean token loss of the true items under the weights that are switched on."""
        targets = self.encoder.responses([self.catalog.titles[item] for item in interaction[self.ITEM_ID].tolist()])
        scores = self.score(self.prompts(interaction), {"target": targets})["target"]
        return mean_token_nll(scores.nll, int(scores.tokens.sum()))

    def predict(self, interaction) -> Tensor:
        """[b] score of each window's item."""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID].to(scores.device).view(-1, 1)).squeeze(1)

    def target_ranks(self, interaction, targets: Tensor, masked: tuple[Tensor, Tensor] | None) -> Tensor | None:
        """[b] ranks of `targets` (item ids) without the scores of all items; None where only scores tell them.

        Args:
            masked: pairs of window and item id that are no candidates, `[m]` each.
        """
        return None

    def full_sort_predict(self, interaction) -> Tensor:
        """[b, n_items] float32 scores, larger is better."""
        raise NotImplementedError


def _tuned_weights(config, backbone: Backbone) -> TunedWeights:
    if config["tuning"] == "full":
        return FullWeights(backbone.model)
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(False)
    targets = config["lora_target_modules"]
    return LoraWeights(backbone.model, LoraSettings(
        config["lora_r"], config["lora_alpha"], config["lora_dropout"], tuple(targets) if targets else None))
