"""Which stages there are, and how large they are: the full benchmark, and the quick one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from benchmarks.inference import Catalogue, Generation, Grounding, Ranking, ScoredRanking, fresh_table
from benchmarks.job import JobSize, SoftJob
from benchmarks.measure import Stage
from benchmarks.training import SdpoStep, SftStep, SoftStep
from benchmarks.workbench import Workbench, answers_to, large_catalogue


@dataclass(frozen=True)
class Workload:
    """How much each stage does.

    Attributes:
        step_windows: windows of a training step.
        prompts: prompts of a beam search.
        answers, items: answers that are grounded, and the catalogue they are grounded in.
        job: the whole job.
        rounds, job_rounds: timed rounds of each stage and of the job.
    """

    step_windows: int = 16
    prompts: int = 96
    answers: int = 1000
    items: int = 17000
    job: JobSize = field(default_factory=lambda: JobSize(64, 32, 64))
    rounds: int = 5
    job_rounds: int = 3


FULL = Workload()
QUICK = Workload(step_windows=8, prompts=32, job=JobSize(16, 8, 16), rounds=3, job_rounds=1)


def stage_makers(bench: Workbench, load: Workload) -> dict[str, Callable[[], Stage]]:
    """Every stage by name, in order; made only when its turn comes, because the job renews the adapter."""
    return {
        "sft": lambda: SftStep(bench, bench.train.take(0, load.step_windows)),
        "soft": lambda: SoftStep(bench, bench.train.take(0, load.step_windows)),
        "sdpo": lambda: SdpoStep(bench, bench.train.take(0, load.step_windows)),
        "generation": lambda: Generation(bench, bench.test.prompts[: load.prompts]),
        "grounding": partial(make_grounding, bench, load.answers, load.items),
        "ranking": partial(make_ranking, bench, load.answers, load.items),
        "scored": partial(make_ranking, bench, load.answers, load.items, ScoredRanking),
        "job": lambda: SoftJob(bench, load.job),
    }


STAGE_NAMES = ("sft", "soft", "sdpo", "generation", "grounding", "ranking", "scored", "job")


def make_grounding(bench: Workbench, answers: int, items: int) -> Grounding:
    """Grounding of `answers` answers in a catalogue of `items` titles."""
    catalogue = make_catalogue(bench, answers, items)
    return Grounding(bench, catalogue, answers_to(catalogue.titles, answers))


def make_ranking(bench: Workbench, answers: int, items: int, kind: type[Ranking] = Ranking) -> Ranking:
    """Ranking of the vectors of such answers."""
    catalogue = make_catalogue(bench, answers, items)
    vectors: Tensor = fresh_table(bench, catalogue.titles).lookup(answers_to(catalogue.titles, answers))
    return kind(vectors, catalogue)


def make_catalogue(bench: Workbench, windows: int, items: int) -> Catalogue:
    """Titles with vectors, and a true title for each of `windows` windows."""
    titles = large_catalogue(bench.catalog.unique_titles, items)
    rows = bench.model.title_rows[bench.test.items.to(bench.device) - 1]
    repeated = rows.repeat(windows // len(rows) + 1)[:windows]
    return Catalogue(titles, fresh_table(bench, titles).table(), repeated % items)
