"""The mix of jobs: whole runs of a few seconds, commands that open finished runs, and jobs that end by an error.

Every job goes through the command line's `main`, as a user's command does. Settings come as words, seeds differ from
job to job, so that nothing kept from an earlier job saves a later one its work.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_soft.errors import EXIT_CODE
from tests.toys import toy_titles, write_atomic, write_toy_dataset

INTERRUPTED = 130
DATA = {
    "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)", "show_progress": False,
    "valid_sample": 8, "test_sample": 10, "epochs": 2, "train_batch_size": 8, "topk": "[1,5,10,20]",
}
LANGUAGE_MODEL = {
    "train_sample": 16, "micro_batch_size": 4, "tuning": "lora", "learning_rate": 0.01, "tiny_hidden_size": 16,
    "tiny_layers": 1, "tiny_heads": 2, "tiny_vocabulary": 320, "tiny_steps": 6, "tiny_batch_size": 2,
    "max_new_tokens": 5, "num_beams": 2, "generation_batch_size": 16,
}
RUN = "run"
ITEMS = 24


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Attributes:
        commands: the words of each command and the exit code that it has to end with. `{run}` and the like stand for
            places, see `Mix.commands`.
        says: what has to be in what it prints.
        interrupted_at: the message at which Ctrl-C is pressed during the first command; empty for never.
        leaves: name under which later jobs find its run; empty if it leaves none.
    """

    name: str
    commands: tuple[tuple[tuple[str, ...], int], ...]
    says: str = ""
    interrupted_at: str = ""
    leaves: str = ""


def _run(model: str, code: int = 0, dataset: str = "toy", resume: bool = False, **changes: Any
         ) -> tuple[tuple[str, ...], int]:
    from recbole_soft.registry import is_llm_name

    settings: Mapping[str, Any] = {**DATA, **(LANGUAGE_MODEL if is_llm_name(model) else {}), **changes}
    words = [f"--model={model}", f"--dataset={dataset}", "--data_path={data}", "--checkpoint_dir={place}",
             f"--run_name={RUN}", "--seed={seed}", *(f"--{key}={value}" for key, value in settings.items())]
    return (*words, *(["--resume"] if resume else [])), code


def _command(*words: str, code: int = 0) -> tuple[tuple[str, ...], int]:
    return words, code


def all_kinds() -> dict[str, Kind]:
    """The mix, in an order in which every job finds the runs that it opens."""
    interrupted = _run("BIGRec_SFT", INTERRUPTED, epochs=3, checkpoint_seconds=0)
    kinds = (
        Kind("soft", (_run("BIGRec_SOFT", alpha=10, distance_sample=8),), "BIGRec SOFT", leaves="soft"),
        Kind("sasrec", (_run("SASRec"),), "SASRec", leaves="sasrec"),
        Kind("mistyped", (_run("BIGRec_SFT", EXIT_CODE, epoch=3),), "did you mean"),
        Kind("recommend", (_command("recommend", "--run={soft}", "--history={titles}", "--format=json"),
                           _command("recommend", "--run={sasrec}", "--user_id=u3")), '"recommendations"'),
        Kind("sdpo", (_run("BIGRec_SDPO", sdpo_epochs=1),), "BIGRec SDPO"),
        Kind("llara", (_run("LLaRA_SOFT", llara_curriculum="linear", rec_model_settings="{epochs: 2}"),), "LLaRA SOFT"),
        Kind("untitled", (_run("BIGRec_SOFT", EXIT_CODE, dataset="untitled"),), "title"),
        Kind("pop", (_run("Pop"),), "Pop"),
        Kind("interrupted", (interrupted, _run("BIGRec_SFT", epochs=3, checkpoint_seconds=0, resume=True)),
             "going on with the run", interrupted_at="epoch 2"),
        Kind("dros", (_run("DROS"),), "DROS"),
        Kind("diverging", (_run("BIGRec_SFT", EXIT_CODE, learning_rate=1e38),), "--learning_rate"),
        Kind("full", (_run("BIGRec_SFT", tuning="full", lm_loss="msl", decoding="constrained"),), "BIGRec SFT"),
        Kind("rerank", (_run("Rerank_SFT", retriever="Pop", rerank_candidates=4),), "Rerank SFT"),
        Kind("outputs", (_command("plot", "--run={soft}", "--out={place}/curriculum.png"),
                         _command("compare", "--runs={soft},{sasrec}", "--out={place}/tables"),
                         _command("report", "--runs={soft},{sasrec}", "--out={place}/report.html")), "report.html"),
    )
    return {kind.name: kind for kind in kinds}


@dataclass
class Mix:
    """Makes commands of kinds, each in a folder of its own below `root`.

    Attributes:
        root: the run folder of the soak.
        finished: the last run of every kind that leaves one.
    """

    root: Path
    finished: dict[str, Path] = field(default_factory=dict)

    def write_data(self) -> Path:
        """The data sets `toy`, with a planted rule, and `untitled`, without titles; returns their folder."""
        data = self.root / "data"
        write_toy_dataset(data / "toy", users=24, items=ITEMS)
        rows = [(f"u{user}", f"i{(user + step) % 8}", 10 * step) for user in range(8) for step in range(8)]
        write_atomic(data / "untitled", "untitled", rows, None)
        (data / "untitled" / "untitled.item").write_text(
            "item_id:token\tprice:float\n" + "".join(f"i{item}\t{item}\n" for item in range(8)), encoding="utf-8")
        return data

    def commands(self, kind: Kind, number: int, seed: int) -> list[tuple[list[str], int]]:
        """The words of a job's commands, and the exit codes that they must end with."""
        place = self.root / f"{number:04d}-{kind.name}"
        place.mkdir()
        names = {"data": self.root / "data", "place": place, "seed": seed, "titles": "|".join(toy_titles(ITEMS)[2:5]),
                 **self.finished}
        return [([_filled(word, names) for word in words], code) for words, code in kind.commands]

    def note_end(self, kind: Kind, number: int) -> None:
        """Remembers the job's run for later jobs, and removes what no later one needs."""
        place: Path | None = self.root / f"{number:04d}-{kind.name}"
        if kind.leaves:
            before = self.finished.get(kind.leaves)
            self.finished[kind.leaves] = place / RUN
            place = before and before.parent
        if place is not None:
            shutil.rmtree(place)


def _filled(word: str, names: Mapping[str, Any]) -> str:
    for name, value in names.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word


@contextmanager
def _interrupt_at(text: str) -> Iterator[None]:
    """Ctrl-C at the first message that holds `text`: the moment is the same every time."""
    def press(record: logging.LogRecord) -> bool:
        if text in record.getMessage():
            logger.removeFilter(press)
            raise KeyboardInterrupt
        return True

    logger = logging.getLogger("recbole_soft")
    logger.addFilter(press)
    try:
        yield
    finally:
        logger.removeFilter(press)


def run_job(kind: Kind, commands: Sequence[tuple[list[str], int]]) -> list[str]:
    """Runs the commands of a job; returns what was not as it should be."""
    from recbole_soft import cli

    wrong = []
    for position, (words, expected) in enumerate(commands):
        with _interrupt_at(kind.interrupted_at) if kind.interrupted_at and not position else nullcontext():
            code = cli.main(words)
        if code != expected:
            wrong.append(f"{kind.name}: exit code {code} where {expected} was expected: {' '.join(words)}")
    return wrong
