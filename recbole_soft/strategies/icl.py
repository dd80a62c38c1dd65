"""ICL: no training; solved examples in the prompt show the language model how to answer.

The ways to choose them are in `recbole_soft.demos`. All examples come from the run's training windows or from the
window's own history, and each is strictly earlier than the target it helps to find.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

from recbole_soft.artifacts import content_key
from recbole_soft.config.schema import Setting
from recbole_soft.demos.effect import ByEffect, Case, EffectSettings
from recbole_soft.demos.pool import DemonstrationPool
from recbole_soft.demos.select import Aggregated, Fixed, Nearest, OwnPast, Selector
from recbole_soft.llm.branch_scores import branch_nll
from recbole_soft.models.answer_parts import BATCHES_IN_A_PART
from recbole_soft.models.base import LLMRecommender
from recbole_soft.strategies.base import Stage, StageContext, Strategy


class DemonstrationStage(Stage):
    """Hands the model a selector of demonstrations; nothing is trained."""

    name = "icl"
    trains = False
    depends_on = ("demos", "demo_count", "demo_merged", "demo_candidates", "demo_copies", "demo_spread_weight",
                  "demo_length_weight", "demo_redundancy_weight", "sample_seed")

    def __init__(self, demos: str):
        self.demos = demos
        self.label = "zero-shot" if demos == "none" else f"ICL {demos}"

    def begin(self, context: StageContext) -> None:
        super().begin(context)
        context.model.selector = None if self.demos == "none" else self._selector(context)
        context.model.forget_answers()

    def _selector(self, context: StageContext) -> Selector:
        config, windows, model = context.config, context.windows, context.model
        count = config["demo_count"]
        if self.demos == "self":
            return OwnPast(count)
        needs_vectors = self.demos != "fixed"
        vectors = HistoryVectors(model)
        pool = DemonstrationPool(windows.queries, windows.target_titles,
                                 vectors([query.history for query in windows.queries]) if needs_vectors else None)
        if self.demos == "fixed":
            return Fixed(count, pool, config["sample_seed"])
        if self.demos == "nearest":
            return Nearest(count, pool, vectors)
        if self.demos == "aggregated":
            return Aggregated(count, pool, vectors, config["demo_merged"], config["MAX_ITEM_LIST_LENGTH"])
        return ByEffect(count, pool, vectors, FrozenLosses(context), EffectSettings(
            config["demo_candidates"], config["demo_copies"], config["demo_spread_weight"],
            config["demo_length_weight"], config["demo_redundancy_weight"], config["sample_seed"]))


class HistoryVectors:
    """Histories as vectors of length 1: the mean of their titles' vectors under the frozen model.

    The catalogue's mean is taken away first: text vectors of language models lie in a narrow cone, in which every
    cosine is near 1.
    """

    def __init__(self, model: LLMRecommender):
        self._titles = model.title_vectors

    def __call__(self, histories: Sequence[tuple[str, ...]]) -> Tensor:
        """[n, d] vectors of n histories."""
        table = self._titles.table()
        centre, rows = table.mean(0), table.new_zeros(len(histories), table.shape[1])
        for number, history in enumerate(histories):
            if history:
                rows[number] = self._titles.lookup(history).mean(0) - centre
        return normalize(rows)


class FrozenLosses:
    """Mean token losses of known answers under the base model, every distinct case once per call."""

    def __init__(self, context: StageContext):
        self._context = context

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        """One loss per case, in nats per token."""
        model, distinct = self._context.model, list(dict.fromkeys(cases))
        if not distinct:
            return []
        prompts, _ = model.encoder.demonstrated_prompts(
            [case.history for case in distinct],
            [[(shown.history, shown.answer) for shown in case.shown] for case in distinct])
        answers = model.encoder.responses([case.answer for case in distinct])
        size, fast = model.options["micro_batch_size"], model.options["fast_path"]
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        with model.weights.base() as base, self._context.progress("Effect of demonstrations", len(prompts)) as advance:
            def score(some: Sequence[int]) -> list[float]:
                return [float(nll[0]) for nll in branch_nll(
                    base, [prompts[number] for number in some], [[answers[number]] for number in some],
                    progress=advance, batch_size=size, fast=fast)]

            nll = model.parts.gather("effects", lambda: content_key(
                base=model.base_fingerprint, prompts=prompts, answers=answers, size=size, fast=fast),
                order, BATCHES_IN_A_PART * size, size, score, advance)
        loss_of = {distinct[number]: value / len(answers[number]) for number, value in zip(order, nll, strict=True)}
        return [loss_of[case] for case in cases]


class ICL(Strategy):
    """No training: demonstrations from the past of the window in the prompt."""

    name = "ICL"
    settings = (
        Setting("demos", "str", "nearest", "which demonstrations the prompt shows",
                choices=("none", "self", "fixed", "nearest", "aggregated", "effect")),
        Setting("demo_count", "int", 2, "demonstrations per prompt; fewer where cutoff_len has no room", low=1),
        Setting("demo_merged", "int", 3, "aggregated: near windows per demonstration", low=1),
        Setting("demo_candidates", "int", 16, "effect: near windows that are tried per window", low=1),
        Setting("demo_copies", "int", 4, "effect: perturbed copies of each that are tried as well", low=0),
        Setting("demo_spread_weight", "float", 0.5, "effect: weight of the spread over the copies", low=0),
        Setting("demo_length_weight", "float", 0.05, "effect: weight of the length", low=0),
        Setting("demo_redundancy_weight", "float", 0.1, "effect: weight of likeness to those chosen", low=0),
    )

    def stages(self) -> list[Stage]:
        return [DemonstrationStage(self.config["demos"])]
