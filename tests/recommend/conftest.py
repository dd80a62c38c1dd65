"""A working folder with a small data set and finished runs, made once by commands with relative paths."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from recbole_soft import load_recommender
from recbole_soft.recommend.recommender import Recommender
from recbole_soft.run import run_recbole_soft
from tests.toys import WORDS, toy_titles, write_atomic

USERS, LENGTH, ITEMS = 40, 16, 24
BAR, MARKUP, ACCENT = "Left | Right", '<img src=x onerror="alert(1)"> & co', "Am\u00e9lie (2001)"
QUICK = {
    "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)", "train_sample": 48, "valid_sample": 16,
    "test_sample": 24, "epochs": 1, "topk": [1, 5, 10, 20], "state": "ERROR", "show_progress": False,
}
QUICK_LLM = {
    "train_batch_size": 16, "micro_batch_size": 8, "tiny_hidden_size": 32, "tiny_layers": 2, "tiny_heads": 2,
    "tiny_vocabulary": 400, "tiny_steps": 10, "tiny_batch_size": 8, "max_new_tokens": 8, "num_beams": 2,
}


def titles() -> list[str]:
    """Titles of the items i0, i1, ..., some of them awkward."""
    return [BAR, MARKUP, ACCENT, *toy_titles(ITEMS)[3:]]


def write_data(folder: Path, users: int = USERS) -> None:
    """Users who each went through most of the catalogue, from different items on; i99 is met once."""
    rows = [(f"u{user}", f"i{(7 * user + step) % ITEMS}", 1000 * step + user)
            for user in range(users) for step in range(LENGTH)]
    items = [(f"i{item}", title, WORDS[item % 3]) for item, title in enumerate(titles())]
    write_atomic(folder, "toy", [*rows, ("u0", "i99", 99999)], [*items, ("i99", "Seen Once", "amber")])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with `dataset/toy`; runs go to its `saved`."""
    folder = tmp_path_factory.mktemp("home")
    write_data(folder / "dataset" / "toy")
    return folder


@pytest.fixture(scope="session")
def finished(home: Path) -> Callable[..., Path]:
    """The folder of a run, trained from inside `home` when it is first asked for."""
    done: dict[str, Path] = {}

    def train(model: str, **changes) -> Path:
        key = repr((model, sorted(changes.items())))
        if key not in done:
            with contextlib.chdir(home):
                llm = QUICK_LLM if "_" in model else {}
                result = run_recbole_soft(model, "toy", config_dict={**QUICK, **llm, **changes})
                done[key] = Path(result["record_path"]).absolute().parent
        return done[key]

    return train


@pytest.fixture(scope="session")
def soft_run(finished) -> Path:
    return finished("BIGRec_SOFT")


@pytest.fixture(scope="session")
def sasrec_run(finished) -> Path:
    return finished("SASRec")


@pytest.fixture(scope="session")
def opened(finished) -> Callable[..., Recommender]:
    """The recommender of a run; each is opened once."""
    known: dict[Path, Recommender] = {}

    def load(folder: Path) -> Recommender:
        if folder not in known:
            known[folder] = load_recommender(folder)
        return known[folder]

    return load


@pytest.fixture(scope="session")
def soft(opened, soft_run) -> Recommender:
    return opened(soft_run)


@pytest.fixture(scope="session")
def sasrec(opened, sasrec_run) -> Recommender:
    return opened(sasrec_run)


@pytest.fixture
def command(capsys) -> Callable[..., SimpleNamespace]:
    """Runs a command of the package in this process; gives code, out and err."""
    from recbole_soft import cli

    def call(*words: str) -> SimpleNamespace:
        code = cli.main(list(words))
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call
