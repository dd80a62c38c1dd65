"""Nothing is fetched that nobody asked for, and no name leads out of its folder."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import shutil
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_soft import cli, plugin
from recbole_soft.config.foreign import recorded_settings
from recbole_soft.data import download
from recbole_soft.data.download import download_atomic_files
from recbole_soft.errors import DataError
from tests.toys import toy_model, toy_titles, toy_tokenizer


def words(settings: dict, **more: object) -> list[str]:
    return [f"--{key}={value}" for key, value in {"dataset": "toy", **settings, "epochs": 1, **more}.items()]


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Collects and forbids every attempt to reach another machine, with the hub's client set to be online."""
    from huggingface_hub import constants

    plugin.install()
    made: list[object] = []

    def forbid(*arguments: object, **_options: object) -> None:
        made.append(arguments[-1])
        raise OSError("this test has no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, forbid)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbid)
    yield made


@pytest.fixture
def unpickled() -> Iterator[list[str]]:
    """Names that any pickle asked for, collected by Python's own audit events."""
    if not _listening:
        sys.addaudithook(lambda event, arguments: _listening[-1].append(".".join(map(str, arguments)))
                         if event == "pickle.find_class" and _listening else None)
    _listening.append([])
    yield _listening[-1]
    _listening.append([])  # a hook cannot be taken away: what comes later goes elsewhere


_listening: list[list[str]] = []


def test_pickles_are_noticed(unpickled):
    pickle.loads(pickle.dumps(Path()))
    assert unpickled


def test_a_run_reaches_no_other_machine_and_reads_no_pickle(toy_settings, attempts, unpickled):
    assert cli.main(words(toy_settings(model="BIGRec_SOFT"))) == 0
    assert attempts == [] and unpickled == []


@pytest.mark.parametrize("model", ["SASRec", "Pop", "DROS"])
def test_a_run_of_a_traditional_model_does_neither(toy_settings, attempts, unpickled, model):
    assert cli.main(words(toy_settings(model=model))) == 0
    assert attempts == [] and unpickled == []


def test_a_run_with_a_model_in_a_folder_reaches_no_other_machine(toy_settings, attempts, tmp_path):
    toy_model("llama", 400).save_pretrained(tmp_path / "llm")
    toy_tokenizer(toy_titles(24) * 3).save_pretrained(tmp_path / "llm")
    assert cli.main(words(toy_settings(model="BIGRec_SFT", llm_path=tmp_path / "llm"))) == 0
    assert attempts == []


def test_a_hub_id_is_what_makes_a_run_reach_out(toy_settings, attempts):
    assert cli.main(words(toy_settings(model="BIGRec_SFT", llm_path="some-org/some-model"))) == 2
    assert attempts


def test_the_hub_gets_no_telemetry_and_no_orders():
    importlib.import_module("recbole_soft.llm.backbone")
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1"


# ---- downloads -----------------------------------------------------------------------------------
@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x.zip", "/etc/passwd", "data:text/plain,x"])
def test_a_download_comes_over_http(tmp_path, url):
    with pytest.raises(DataError, match="has to start with https"):
        download_atomic_files(url, tmp_path / "data" / "x", "x")
    assert not (tmp_path / "data").exists()


def test_an_archive_larger_than_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("x.inter", b"\0" * 10_000_000)
    assert len(archive.getvalue()) < 20_000
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9_000_000))
    (tmp_path / "archive.zip").write_bytes(archive.getvalue())
    with pytest.raises(DataError, match="unpacks to 10,000,000 bytes, and 9,000,000 are free"):
        download._unzip(tmp_path / "archive.zip", tmp_path, "x")
    assert not (tmp_path / "x.inter").exists()


# ---- names ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name",
                         ["../escaped", "../../escaped", "a/../../escaped", "/tmp/escaped", "..", ".", "a\0b"])
@pytest.mark.parametrize("key", ["dataset", "run_name"])
def test_no_name_leads_out_of_its_folder(toy_settings, tmp_path, key, name):
    def everything() -> set[str]:
        return {str(path) for path in (*tmp_path.rglob("*"), *tmp_path.parent.iterdir())}

    from recbole_soft import run_recbole_soft
    from recbole_soft.errors import UserError

    before = everything()
    settings = toy_settings()
    if key == "run_name":
        settings["run_name"] = name
    with pytest.raises(UserError):
        run_recbole_soft("BIGRec_SFT", name if key == "dataset" else "toy", config_dict=settings)
    assert everything() - before <= {str(tmp_path / "saved")} and not Path("/tmp/escaped").exists()


def test_a_record_cannot_consent_to_code():
    record = {"user_settings": {"trust_remote_code": True, "llm_path": "org/model", "seed": 1}}
    assert recorded_settings(record) == {"llm_path": "org/model", "seed": 1}


def test_code_of_a_checkpoint_runs_only_where_it_was_asked_for(toy_settings, tmp_path):
    folder = tmp_path / "llm"
    toy_model("llama", 400).save_pretrained(folder)
    toy_tokenizer(toy_titles(24) * 3).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": names}))
    proof = tmp_path / "proof"
    (folder / "evil.py").write_text(f"open({os.fspath(proof)!r}, 'w').close()\n")
    for choice, was_run in (({}, False), ({"trust_remote_code": False}, False), ({"trust_remote_code": True}, True)):
        assert cli.main(words(toy_settings(model="BIGRec_SFT", llm_path=folder, **choice))) == 2
        assert proof.exists() == was_run
