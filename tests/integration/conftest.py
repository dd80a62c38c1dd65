"""The command as a user runs it, in this process; a language model to damage; a model hub that says what it is told."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recbole_soft import cli
from tests.toys import toy_model, toy_titles, toy_tokenizer


def words_of(settings: dict, model: str = "BIGRec_SFT", dataset: str = "toy") -> list[str]:
    """The words of a command line."""
    return [f"--{key}={value}" for key, value in {"model": model, "dataset": dataset, **settings}.items()]


@pytest.fixture
def run(toy_settings, capsys) -> Callable[..., tuple[int, str]]:
    """Runs the command; gives exit code and stderr."""

    def call(model: str = "BIGRec_SFT", dataset: str = "toy", **changes) -> tuple[int, str]:
        code = cli.main(words_of(toy_settings(**{"epochs": 1, **changes}), model, dataset))
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def refused(run) -> Callable[..., None]:
    """Runs the command, which must end with one message of cause, place and remedy, holding the given texts."""

    def call(*expected: str, **settings) -> None:
        code, message = run(**settings)
        assert code == 2, message
        assert message.count("error: ") == 1 and "Traceback" not in message
        assert "  where:  " in message and ("  remedy: " in message or ": must be " in message)
        for text in expected:
            assert text in message

    return call


@pytest.fixture(scope="session")
def good_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random language model."""
    folder = tmp_path_factory.mktemp("llm") / "good"
    toy_model("llama", 400).save_pretrained(folder)
    toy_tokenizer(toy_titles(24) * 3).save_pretrained(folder)
    return folder


@pytest.fixture
def llm(good_llm: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(good_llm, tmp_path / "llm"))


@pytest.fixture
def hub_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Puts a port of this machine in the model hub's place."""
    from huggingface_hub import constants

    def place(port: int) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}")

    return place


@pytest.fixture
def silent_hub(hub_at) -> Iterator[None]:
    """A hub that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hub_at(listening.getsockname()[1])
        yield
