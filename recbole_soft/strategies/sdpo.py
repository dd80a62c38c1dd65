"""S-DPO: softmax direct preference optimisation (Chen et al. 2024, "On Softmax Direct Preference Optimization").

Starts from the SFT weights and learns to prefer the true response to N random titles, measured against the frozen
SFT model (see `losses.softmax_dpo_loss`). Under full ranking the prompt is SFT's own, without a candidate list.

The reference is the same base model with the SFT weights switched on, never a second model in memory. It scores
every (window, title) once, with the prompt shared by all titles of a window; what it said is kept by content, so
that another beta or learning rate finds it.

Deviation: negatives are drawn anew every epoch from the whole catalogue without what the user is known to have met;
the published code keeps the N drawn once from the 19 wrong candidates of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_soft.artifacts import content_key
from recbole_soft.config.schema import Setting
from recbole_soft.data.negatives import draw_negatives
from recbole_soft.errors import SettingError
from recbole_soft.llm.score import ResponseScores
from recbole_soft.losses import mean_token_nll, softmax_dpo_loss
from recbole_soft.strategies.base import LossParts, Responses, Stage, StageContext, Strategy
from recbole_soft.strategies.sft import SupervisedStage, labelled

REFERENCE_FILE = "reference.safetensors"
CHOSEN = "chosen"


class ReferenceScores:
    """Negative log-likelihoods of titles under the SFT weights, each (window, title) computed once.

    Args:
        responses: response tokens of every title of the catalogue, by row.
    """

    def __init__(self, context: StageContext, responses: Sequence[list[int]]):
        self._context, self._responses = context, responses
        self._found: dict[tuple[int, int], float] = {}
        self._prompts = content_key(prompts=context.windows.prompts)

    def lookup(self, titles: np.ndarray) -> Tensor:
        """[n, k] float32 of the titles `titles` [n, k] (rows of the catalogue) after the prompts of all n windows."""
        wanted = [list(dict.fromkeys(row)) for row in titles.tolist()]
        missing = [[title for title in row if (window, title) not in self._found] for window, row in enumerate(wanted)]
        if any(missing):
            pairs = [(window, title) for window, row in enumerate(missing) for title in row]
            self._found.update(zip(pairs, self._obtain(missing), strict=True))
        return torch.tensor([[self._found[window, title] for title in row]
                             for window, row in enumerate(titles.tolist())])

    def _obtain(self, missing: list[list[int]]) -> list[float]:
        """Scores of the missing titles, window by window, from the store or computed now."""
        context, config = self._context, self._context.config
        key = content_key(
            weights=context.keys["sft"], scale=config["lora_alpha"], base=context.model.base_fingerprint,
            prompts=self._prompts, responses=[[self._responses[title] for title in row] for row in missing],
            precision=[config["dtype"], config["quantization"], config["device"].type, config["attn_implementation"]],
            fast=config["fast_path"])

        def make(folder: Path) -> None:
            save_file({"nll": self._score(missing, key)}, folder / REFERENCE_FILE)

        folder, _ = context.store.obtain("reference", key, make, together=True)
        return load_file(folder / REFERENCE_FILE)["nll"].tolist()

    @torch.no_grad()
    def _score(self, missing: list[list[int]], key: str) -> Tensor:
        """[number of missing titles] computed with the SFT weights, without dropout; `key` names unfinished parts."""
        context, model = self._context, self._context.model
        prompts, size = context.windows.prompts, context.config["micro_batch_size"]
        windows = sorted((window for window, row in enumerate(missing) if row), key=lambda window: len(prompts[window]))

        def score_batch(batch: Sequence[int]) -> list[list[float]]:
            width = max(len(missing[window]) for window in batch)
            # A window that lacks fewer titles than others gets empty responses, which cost and score nothing.
            texts = [[self._responses[title] for title in missing[window]] + [[]] * (width - len(missing[window]))
                     for window in batch]
            found = model.score([prompts[window] for window in batch],
                                {str(place): [row[place] for row in texts] for place in range(width)})
            table = torch.stack([score.nll for score in found.values()], dim=1).tolist()
            advance(len(batch))
            return [row[:len(missing[window])] for window, row in zip(batch, table, strict=True)]

        was_training = model.training
        model.eval()
        with context.switched_to("sft"), context.progress("Reference log-probabilities", len(windows)) as advance:
            rows = model.parts.gather("reference", lambda: f"{key}-{size}", windows, size, size, score_batch, advance)
        model.train(was_training)
        scores = dict(zip(windows, rows, strict=True))
        return torch.tensor([value for window in sorted(scores) for value in scores[window]])


class PreferenceStage(Stage):
    """Prefers the true response to random titles, relative to the SFT model."""

    name = "sdpo"
    label = "SDPO"
    starts_from = "sft"
    depends_on = ("sdpo_beta", "sdpo_negatives", "sdpo_learning_rate", "sdpo_epochs", "sdpo_nll_weight")

    def __init__(self, config) -> None:
        self.label = labelled(self.label, config["lm_loss"])
        self.epochs, self.learning_rate = config["sdpo_epochs"], config["sdpo_learning_rate"]
        self.beta, self.negatives = config["sdpo_beta"], config["sdpo_negatives"]
        self.nll_weight = config["sdpo_nll_weight"]
        self._kinds = [CHOSEN, *(f"rejected_{number}" for number in range(1, self.negatives + 1))]

    def begin(self, context: StageContext) -> None:
        super().begin(context)
        titles = context.model.catalog.unique_titles
        unknown = len(titles) - max(map(len, context.windows.shown_rows))
        if unknown < self.negatives:
            raise SettingError(
                f"sdpo_negatives = {self.negatives}: a user has met all but {unknown} of the {len(titles)} titles",
                where="sdpo_negatives", remedy=f"--sdpo_negatives={unknown} or less, or more items" if unknown
                else "use data with more items: there is nothing to prefer the true title to")
        self._responses = context.model.encoder.responses(titles)
        self._reference = ReferenceScores(context, self._responses)
        self._chosen_titles = context.windows.target_rows.cpu().numpy()

    def begin_epoch(self, epoch: int, epochs: int) -> dict[str, float]:
        windows = self.context.windows
        drawn = draw_negatives(windows.shown_rows, len(self._responses), self.negatives, self.context.config["seed"],
                               epoch, windows.window_ids)
        self._titles = np.concatenate([self._chosen_titles[:, None], drawn], axis=1)
        self._reference_nll = self._reference.lookup(self._titles)
        self._epochs_begun = epoch + 1
        return {}

    def state(self) -> dict[str, Any]:
        return super().state() | {"epochs_begun": self._epochs_begun}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Begins the epochs once more: which titles were scored before decides which are scored together later."""
        super().restore(state)
        for epoch in range(state["epochs_begun"]):
            self.begin_epoch(epoch, self.epochs)

    def responses(self, rows: Sequence[int]) -> Responses:
        """The true responses exactly as under SFT, and the negatives in the same form."""
        self._batch_windows = len(rows)
        rejected = {kind: [self._responses[self._titles[row, place]] for row in rows]
                    for place, kind in enumerate(self._kinds) if kind != CHOSEN}
        return {CHOSEN: [self.context.windows.targets[row] for row in rows], **rejected}

    def loss(self, scores: Mapping[str, ResponseScores], batch_tokens: Mapping[str, int],
             rows: Sequence[int]) -> LossParts:
        """Mean of the windows' losses, plus L_SFT of the true responses if it has a weight."""
        log_p = -torch.stack([scores[kind].nll for kind in self._kinds], dim=1)
        log_ratios = log_p + self._reference_nll[list(rows)].to(log_p)
        preference = softmax_dpo_loss(log_ratios, self.beta).sum() / self._batch_windows
        figures = {name: values.sum() / self._batch_windows
                   for name, values in preference_figures(log_p.detach(), log_ratios.detach(), self.beta).items()}
        if not self.nll_weight:
            return LossParts(preference, {"preference": preference}, figures)
        nll = mean_token_nll(scores[CHOSEN].nll, batch_tokens[CHOSEN])
        return LossParts(preference + self.nll_weight * nll, {"preference": preference, "nll": nll}, figures)


def preference_figures(log_p: Tensor, log_ratios: Tensor, beta: float) -> dict[str, Tensor]:
    """What tells whether preference learning does what it should; [b] per figure, rejected ones averaged.

    Both log-probabilities may fall while their distance grows: the SOFT paper sees the reason there why S-DPO gains
    little under full ranking.

    Args:
        log_p: [b, 1 + N] log-probabilities in nats, summed over tokens; the chosen response first.
        log_ratios: [b, 1 + N] the same minus the reference's.
    """
    rewards = beta * log_ratios
    chosen, rejected = rewards[:, :1], rewards[:, 1:]
    return {
        "chosen_logp": log_p[:, 0], "rejected_logp": log_p[:, 1:].mean(1),
        "reward_margin": (chosen - rejected).mean(1), "preference_accuracy": (chosen > rejected).all(1).to(log_p),
    }


class SDPO(Strategy):
    """S-DPO: SFT, then preference of the true title to random ones, relative to the SFT model."""

    name = "SDPO"
    settings = (
        Setting("sdpo_beta", "float", 1.0, "how far the model may leave its reference: larger is closer", above=0),
        Setting("sdpo_negatives", "int", 3, "random titles per window, drawn anew every epoch; 1 is DPO", low=1),
        Setting("sdpo_learning_rate", "float", 1e-5, "learning rate of the preference stage", low=0),
        Setting("sdpo_epochs", "int", 3, "most epochs of the preference stage", low=1),
        Setting("sdpo_nll_weight", "float", 0.0, "weight of the true titles' mean token loss beside it", low=0),
    )

    def stages(self) -> list[Stage]:
        return [SupervisedStage(self.config["lm_loss"]), PreferenceStage(self.config)]
