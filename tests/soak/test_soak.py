"""The soak in short, and that it sees what it is there for. The long form: docs/soak.md."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_soft.errors import UserError
from recbole_soft.reporting.plots import plot_curriculum
from tests.soak.__main__ import report, soak
from tests.soak.jobs import all_kinds
from tests.soak.samples import History, Sample, Sampler
from tests.soak.verdict import judge

SHORT = ("soft", "sasrec", "recommend", "mistyped", "diverging")


@pytest.fixture(autouse=True)
def _only_what_is_new() -> Iterator[None]:
    """Objects of other tests are not counted, and need not be walked through after every job."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def sampler(tmp_path: Path, run_folder: Path) -> Sampler:
    return Sampler([tmp_path], run_folder)


def test_short_form(tmp_path, run_folder):
    """A round that warms up, one that is judged: runs, a recommendation, a mistyped key, a loss that is no number."""
    told: list[str] = []
    history, wrong = soak(2 * len(SHORT) + 1, 1, SHORT, run_folder, [tmp_path], len(SHORT), told.append)
    assert wrong == [] and len(told) == 11
    assert sorted(line.split()[1] for line in told[5:10]) == sorted(SHORT)
    # Memory is judged by the long form alone: six jobs have no slope.
    grown = [row.name for row in judge(history, len(SHORT)) if row.grows and row.tolerated is None]
    assert grown == [] and history.strays == set()
    assert history.last.settings == history.warm.settings


def test_every_kind_of_leak_is_seen(sampler, tmp_path, run_folder):
    def values() -> dict[str, float]:
        return sampler.sample().values

    before, held, done = values(), [], threading.Event()
    (run_folder / "allowed.txt").touch()
    (tmp_path / "stray.txt").touch()
    held.append((tmp_path / "stray.txt").open())
    handler, thread = logging.NullHandler(), threading.Thread(target=done.wait)
    logging.getLogger("recbole_soft").addHandler(handler)
    thread.start()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    held += [torch.zeros(3), torch.nn.Linear(2, 2)]
    try:
        after = values()
    finally:
        done.set()
        thread.join()
        child.communicate(b"\n")
        logging.getLogger("recbole_soft").removeHandler(handler)
        held[0].close()
    seen = {name for name, value in after.items() if value > before[name]}
    assert {"file descriptors", "threads", "child processes", "log handlers", "tensors", "models",
            "files elsewhere", "Python objects"} <= seen
    assert after["log handlers"] == before["log handlers"] + 1 and after["models"] == before["models"] + 1
    assert sampler.sample().strays == {tmp_path / "stray.txt"}
    held.clear()
    gc.collect()
    assert values()["models"] == before["models"]


def history_of(**series: list[float]) -> History:
    """Samples with the given values, the first of which warm up nothing."""
    jobs = len(next(iter(series.values())))
    history = History(jobs, warm_up=1)
    for number in range(jobs):
        values = {name.replace("_", " "): of_name[number] for name, of_name in series.items()}
        history.note(Sample(values, {}, {}, {}, frozenset()))
    return history


def test_a_handle_that_one_kind_of_job_loses_is_growth_and_one_in_use_for_a_while_is_none():
    lost = [10.0] + [10 + turn // 5 for turn in range(40)]
    in_use = [10.0] + [12.0 if turn % 5 == 2 else 10.0 for turn in range(40)]
    rows = {row.name: row for row in judge(history_of(threads=lost, figures=in_use), per_round=5)}
    assert rows["threads"].grows and rows["threads"].slope == pytest.approx(0.2, abs=0.02)
    assert not rows["figures"].grows


def test_memory_may_jump_but_not_climb():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1.0, 181)
    jump = 500 + noise + np.where(np.arange(181) == 90, 200, 0)
    climb = 500 + noise + 0.2 * np.arange(181)
    assert not judge(history_of(resident_memory=list(jump)), 14)[0].grows
    assert judge(history_of(resident_memory=list(climb)), 14)[0].grows


def test_too_few_jobs_to_judge_by_are_said():
    with pytest.raises(ValueError, match="too few"):
        judge(history_of(threads=[1.0] * 5), per_round=5)


def test_whatever_is_wrong_is_told_and_decides(sampler):
    history = History(6, 1)
    for _ in range(6):
        history.note(sampler.sample())
    text, is_flat = report(history, [], 2)
    assert is_flat and text.endswith("flat\n"), text
    text, is_flat = report(history, ["job 3, soft: exit code 1 where 0 was expected"], 2)
    assert not is_flat and "job 3, soft" in text and text.endswith("NOT flat, see above\n")


def test_kinds_are_known_by_their_names():
    assert set(SHORT) <= set(all_kinds()) and len(all_kinds()) == 14


def test_a_plot_keeps_no_figure_and_makes_its_folder(tmp_path):
    curves = [{"stage": "soft", "epoch": epoch, "tau": 1.0 - epoch / 2, "distance": 0.5, "loss_sft": 1.0}
              for epoch in range(2)]
    record = {"model": "BIGRec_SOFT", "dataset": "toy", "seed": 1, "curves": curves}
    path = plot_curriculum(record, tmp_path / "new" / "curve.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
    with pytest.raises(UserError, match="no picture format 'pgn'") as refused:
        plot_curriculum(record, tmp_path / "curve.pgn")
    assert "did you mean png" in str(refused.value)
