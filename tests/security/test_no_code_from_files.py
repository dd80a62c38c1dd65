"""Nothing that lies in a file or stands in a setting is executed: pickles, checkpoints, text."""

from __future__ import annotations

import collections
import importlib
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_soft import cli
from recbole_soft.compat.plain_checkpoint import load_checkpoint
from recbole_soft.errors import ModelError


class Touches:
    """A pickle that makes a file where it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def never(tmp_path: Path) -> Path:
    """A file that exists once somebody has executed `Touches` or the text of `code`."""
    return tmp_path / "never"


def words(settings: dict, **more: Any) -> list[str]:
    return [f"--{key}={value}" for key, value in {"dataset": "toy", **settings, "epochs": 1, **more}.items()]


# ---- RecBole's checkpoints -----------------------------------------------------------------------
@pytest.mark.parametrize("place", ["config", "state_dict", "optimizer", "other_parameter", "epoch"])
def test_a_checkpoint_with_code_is_read_without_running_it(tmp_path, never, place):
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {"weight": torch.ones(2)}, place: {"x": Touches(never)}}, path, pickle_protocol=4)
    torch.load(path, weights_only=False)
    assert never.exists(), "the attack works where it is let"
    never.unlink()
    checkpoint = load_checkpoint(path)
    assert not never.exists() and type(checkpoint[place]["x"]).__name__ == "Unread_Path.touch".replace(".", "_")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_recbole_keeps_comes_back(tmp_path, protocol):
    """Tensors, arrays, sparse matrices, counters and layers: what models list in `other_parameter_name`."""
    kept = {
        "tensor": torch.arange(6.0).view(2, 3).T, "half": torch.ones(2, dtype=torch.bfloat16), "array": np.eye(2),
        "number": np.float64(0.5), "matrix": csr_matrix(np.eye(3)), "counter": collections.Counter("aab"),
        "layer": torch.nn.Linear(2, 1), "parameter": torch.nn.Parameter(torch.ones(1)), "set": {1, 2},
        "nested": collections.defaultdict(list, a=[(1, "x", None, True, 2.5)]), "device": torch.device("cpu"),
        "objects": np.array(["a", "b"], dtype=object),
    }
    torch.save(kept, tmp_path / "c.pth", pickle_protocol=protocol)
    read = load_checkpoint(tmp_path / "c.pth", map_location="cpu")
    assert read["tensor"].equal(kept["tensor"]) and read["half"].dtype == torch.bfloat16
    assert (read["array"] == kept["array"]).all() and read["number"] == 0.5
    assert (read["matrix"] != kept["matrix"]).nnz == 0
    assert read["layer"].weight.equal(kept["layer"].weight) and read["parameter"].requires_grad
    for name in ("counter", "set", "nested", "device"):
        assert read[name] == kept[name]
    assert read["objects"].tolist() == ["a", "b"]


def test_a_stored_config_comes_back_without_being_constructed(tmp_path, monkeypatch):
    from recbole.config import Config

    config = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None, "seed": 7})
    torch.save({"config": config}, tmp_path / "c.pth", pickle_protocol=4)
    monkeypatch.setattr(Config, "__init__", None)
    read = load_checkpoint(tmp_path / "c.pth")["config"]
    assert type(read) is Config and read["seed"] == 7 and read["model"] == "SASRec"
    assert read["MODEL_TYPE"] is config["MODEL_TYPE"] and read.model_class is config.model_class
    assert read.final_config_dict == config.final_config_dict


def test_a_config_cannot_be_called_from_a_checkpoint(tmp_path, never):
    """RecBole's Config evaluates what it is given; a checkpoint may name the class, and not call it."""
    from recbole.config import Config

    class Calls:
        def __reduce__(self):
            return Config, ("BPR", "ml-100k", None, {"x": f"open({str(never)!r}, 'w')"})

    torch.save({"config": Calls()}, tmp_path / "c.pth", pickle_protocol=4)
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(tmp_path / "c.pth")
    assert not never.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and so on", pickle.dumps({"state_dict": {}}), b"\0" * 1000])
def test_other_files_are_no_checkpoints(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read(.|\n)*c\.pth(.|\n)*train again"):
        load_checkpoint(tmp_path / "c.pth")
    with (tmp_path / "c.pth").open("rb") as file, pytest.raises(ModelError):
        load_checkpoint(file)


def test_archives_of_another_kind_are_no_checkpoints(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"\x80\x02N.")
        archive.writestr("script/constants.pkl", b"\x80\x02).")
    with pytest.raises(ModelError, match="not one that a trainer writes"):
        load_checkpoint(tmp_path / "script.pt")


# ---- whole runs ----------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["BIGRec_SFT", "SASRec"])
def test_pickles_beside_the_results_are_not_read(toy_settings, tmp_path, never, caplog, model):
    saved = tmp_path / "saved"
    saved.mkdir()
    names = {f"toy-for-{model}-dataloader.pth", "toy-SoftDataset.pth", "toy-SequentialDataset.pth"}
    for name in names:
        (saved / name).write_bytes(pickle.dumps(Touches(never)))
    assert cli.main(words(toy_settings(model=model))) == 0
    assert not never.exists() and "is not read, because a pickle can run code" in caplog.text


# ---- settings ------------------------------------------------------------------------------------
def test_recboles_own_config_evaluates_no_text(monkeypatch, never):
    from recbole.config import Config

    code = f"__import__('pathlib').Path({str(never)!r}).touch()"
    monkeypatch.setattr(sys, "argv", ["program", f"--note={code}"])
    for model, more in (("BPR", {}), ("BIGRec_SFT", {"title_field": code}),
                        ("SASRec", {"train_neg_sample_args": None})):
        config = Config(model=model, dataset="ml-100k", config_dict={"LABEL_FIELD": code, **more})
        assert config["note"] == config["LABEL_FIELD"] == code
    assert not never.exists()


@pytest.mark.parametrize(("text", "value"), [
    ("5", 5), ("1e-3", 1e-3), ("[1, 2]", [1, 2]), ("{'a': (1, None)}", {"a": (1, None)}), ("'x'", "x"), ("True", True),
    ("false", False), ("text", "text"), ("a b", "a b"), ("1-2", "1-2"), ("print", "print"), ("[x for x in ()]", None),
    ("2 ** 9999999", None), ("(" * 5000, None), ("\x00", None),
])
def test_literals_mean_what_they_meant_to_recbole(monkeypatch, text, value):
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["program"])
    assert Config(model="BPR", dataset="ml-100k",
                  config_dict={"note": text})["note"] == (text if value is None else value)


def test_no_module_of_ours_evaluates_or_unpickles():
    """The audit (`make audit`) looks for it with ruff's rules; here is what they would not see."""
    package = Path(importlib.import_module("recbole_soft").__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in ("read_pickle(", "joblib", "dill", "shelve", "marshal", "unsafe_load", "full_load", "os.system",
                     "shell=True", "allow_pickle\": True", "allow_pickle=True"):
            assert call not in text, f"{path} has {call}"
