"""Machines without network, GPU or space, and folders that cannot be written.

What is kept when a disk fills up in the middle of a run is tested in `tests/integration/test_nothing_lost.py`.
"""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.bad_inputs.case import Case, Surroundings

DISK = "disk"


@contextmanager
def no_network(_folder: Path) -> Iterator[None]:
    """No name can be looked up, and nothing answers."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", fail)
        patch.setattr(socket.socket, "connect", fail)
        yield


def hub_that_says(status: int, code: str) -> Surroundings:
    """A model hub that answers every request for a model with this status and error code."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status if self.path != "/" or status >= 500 else 200)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_arguments: object) -> None:
            pass

    @contextmanager
    def answering(_folder: Path) -> Iterator[None]:
        from huggingface_hub import constants

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                             Handler) as server, pytest.MonkeyPatch.context() as patch:
            place = f"http://127.0.0.1:{server.server_port}"
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            patch.setattr(constants, "ENDPOINT", place)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}")
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()

    return answering


@contextmanager
def no_gpu(_folder: Path) -> Iterator[None]:
    """torch finds no GPU, whatever the machine has."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


def small_disk(kilobytes: int, *, read_only: bool = False) -> Surroundings:
    """The folder `disk` is a file system of so many kB."""

    @contextmanager
    def mounted(folder: Path) -> Iterator[None]:
        place = folder / DISK
        place.mkdir()
        options = f"size={kilobytes}k" + (",ro" if read_only else "")
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this machine does not let a test mount a small disk")
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)

    return mounted


@contextmanager
def folder_without_rights(folder: Path) -> Iterator[None]:
    """The folder `disk` may be read and not be written."""
    place = folder / DISK
    place.mkdir()
    place.chmod(0o500)
    if os.access(place, os.W_OK):
        pytest.skip("this user may write everywhere")
    yield
    place.chmod(0o700)


def full(name: str, kilobytes: int, within: AbstractContextManager | Surroundings | None = None,
         **words: object) -> Case:
    """A case of a disk that fills up."""
    return Case(name, {"checkpoint_dir": DISK, "artifacts_dir": DISK, **words}, within=within or small_disk(kilobytes),
                cause="No space left on device", place=DISK, remedy="--checkpoint_dir=FOLDER")


ID = {"llm_path": "some-org/some-model"}
CASES = (
    Case("a hub id without network", ID, within=no_network, cause="couldn't find them in the cached files",
         place="llm_path=some-org/some-model", remedy="--llm_path=/path/to/folder"),
    Case("a gated hub id", ID, within=hub_that_says(403, "GatedRepo"), cause="cannot be loaded",
         place="llm_path=some-org/some-model", remedy="accept the model's licence"),
    Case("a hub id that is absent", ID, within=hub_that_says(404, "RepoNotFound"), cause="cannot be loaded",
         place="llm_path=some-org/some-model", remedy="check the id and the network"),
    Case("a hub id whose revision is absent", {**ID, "llm_revision": "v99"},
         within=hub_that_says(404, "RevisionNotFound"),
         cause="cannot be loaded", place="llm_path=some-org/some-model", remedy="check the id"),
    Case("a hub that is out of order", ID, within=hub_that_says(503, ""), cause="cannot be loaded",
         place="llm_path=some-org/some-model", remedy="check the id and the network"),
    Case("a hub id that is none", {"llm_path": "some org/some model"}, within=no_network, cause="cannot be loaded",
         place="llm_path=some org/some model", remedy="check the id"),
    Case("a download without network", {"dataset": "kindle"}, within=no_network, cause="Name or service not known",
         place="data/kindle", remedy="prepare --ratings="),
    Case("no network is needed", {"model": "BIGRec_SFT"}, within=no_network, ends=0, says="HR@5"),
    Case("a GPU that is not there", {"use_gpu": None, "gpu_id": 7}, within=no_gpu,
         cause="gpu_id = 7: torch finds no such",
         place="--gpu_id=7", remedy="--use_gpu=False"),
    Case("a GPU by another name", {"use_gpu": None, "gpu_id": "cuda:0"}, within=no_gpu, cause="torch finds no such GPU",
         place="--gpu_id=cuda:0", remedy="that nvidia-smi shows"),
    Case("a GPU if there is one", {"use_gpu": True}, within=no_gpu, ends=0, says="torch finds no GPU"),
    Case("no GPU, and none asked for", {"use_gpu": None}, within=no_gpu, ends=0, says="HR@5"),
    Case("half precision for all weights", {"dtype": "float16", "tuning": "full"}, cause="weights in float16",
         place="--dtype=float16", remedy="--dtype=float32"),
    full("a disk that is full from the start", 4),
    full("a disk with room for the settings only", 40),
    full("a disk with room for the embedded model only", 180),
    Case("a disk that fills up under a traditional model", {"checkpoint_dir": DISK, "model": "SASRec"},
         within=small_disk(60), cause="No space left on device", place=DISK, remedy="--checkpoint_dir=FOLDER"),
    Case("a disk that fills up under prepare", within=small_disk(8), argv=[
        "prepare", "--ratings=raw/ratings.csv", "--metadata=raw/items.jsonl", "--name=new", f"--out={DISK}"],
         cause="No space left on device", place=DISK, remedy="--out"),
    Case("a read-only disk for the results", {"checkpoint_dir": f"{DISK}/saved"},
         within=small_disk(100, read_only=True),
         cause="Read-only file system", place=DISK, remedy="--checkpoint_dir=FOLDER"),
    Case("a read-only disk for the artefacts", {"artifacts_dir": f"{DISK}/store"},
         within=small_disk(100, read_only=True),
         cause="Read-only file system", place=DISK, remedy="--artifacts_dir=FOLDER"),
    Case("a read-only disk for prepare", within=small_disk(100, read_only=True), argv=[
        "prepare", "--ratings=raw/ratings.csv", "--metadata=raw/items.jsonl", "--name=new", f"--out={DISK}"],
         cause="Read-only file system", place=DISK, remedy="--out"),
    Case("a folder that may not be written", {"checkpoint_dir": DISK}, within=folder_without_rights,
         cause="cannot be written", place=DISK, remedy="--checkpoint_dir=FOLDER"),
    Case("a file where the results should be", {"checkpoint_dir": "file"}, files={"file": "keep me"},
         cause="cannot be written", place="file", remedy="--checkpoint_dir=FOLDER"),
    Case("a file where the artefacts should be", {"artifacts_dir": "file"}, files={"file": "keep me"},
         cause="cannot be written", place="file", remedy="--artifacts_dir=FOLDER"),
)
