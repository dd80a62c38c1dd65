"""Wrong settings and wrong data, as a new user meets them: one message with cause, place and remedy, exit code 2."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import words_of
from tests.toys import write_atomic

ROOT = Path(__file__).resolve().parents[2]
FULL = {"train_sample": "full", "valid_sample": "full", "test_sample": "full"}
ANY_COUNT = {"user_inter_num_interval": "[1,inf)", "item_inter_num_interval": "[1,inf)"}
THREE_THINGS = ("--data_path=FOLDER", "export RECBOLE_SOFT_DATA=FOLDER", "prepare --ratings=")


# ---- names and settings --------------------------------------------------------------------------
@pytest.mark.parametrize(("settings", "expected"), [
    ({"model": "BIGRec_SOTF"}, "did you mean SOFT?"), ({"model": "BIGRek_SFT"}, "BIGRec"),
    ({"model": "SASrec"}, "did you mean SASRec"), ({"dataset": "toi"}, "did you mean toy?"),
    ({"epoch": 3}, "did you mean epochs?"), ({"epochs": "many"}, "must be an integer from 1 up"),
    ({"lora_dropout": 2}, "must be a number between 0 and 1"), ({"train_sample": 0}, "must be a positive integer"),
    ({"decoding": "greedy"}, "must be one of free, constrained"), ({"data_path": "/no/where"}, "there is no folder"),
    ({"llm_path": "/no/where"}, "there is no such folder"), ({"llm_path": "a/b/c"}, "there is no such folder"),
    ({"prompt": "itme"}, "did you mean item?"), ({"sft_adapter": "no/where"}, "there is no such file or folder"),
    ({"cutoff_len": 16}, "too short for any history"), ({"tiny_hidden_size": 33}, "--tiny_hidden_size=32"),
    ({"train_sample": 10**6}, "--train_sample=full"), ({"test_sample": 10**6}, "--test_sample=full"),
    ({"quantization": "4bit", "tuning": "full"}, "use tuning=lora"),
])
def test_names_and_values(refused, settings, expected):
    refused(expected, **settings)


def test_data_set_that_must_be_downloaded_without_network(refused, monkeypatch, tmp_path):
    def no_network(*_args, **_options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    started = time.perf_counter()
    refused("Name or service not known", *THREE_THINGS, dataset="kindle", data_path=tmp_path / "empty")
    assert time.perf_counter() - started < 5
    assert not (tmp_path / "empty").exists()


# ---- data ----------------------------------------------------------------------------------------
def swap(old: bytes, new: bytes, count: int = -1) -> Callable[[bytes], bytes]:
    return lambda text: text.replace(old, new, count)


def same(text: bytes) -> bytes:
    return text


def header_only(text: bytes) -> bytes:
    return text[: text.index(b"\n") + 1]


def without_titles(text: bytes) -> bytes:
    header, *rows = text.strip().split(b"\n")
    return b"\n".join([header] + [row.split(b"\t")[0] + b"\t\t" for row in rows])


@pytest.fixture
def data(toy_path, tmp_path) -> Callable[..., dict]:
    """Settings of the data set `mine`: the toy data set with its two files changed, or without titles."""

    def make(change_inter=same, change_item=lambda text: text) -> dict:
        folder = tmp_path / "data" / "mine"
        folder.mkdir(parents=True)
        for suffix, change in (("inter", change_inter), ("item", change_item)):
            content = change((toy_path / "toy" / f"toy.{suffix}").read_bytes()) if change else None
            if content is not None:
                (folder / f"mine.{suffix}").write_bytes(content)
        return {"data_path": folder.parent, "dataset": "mine"}

    return make


@pytest.mark.parametrize(("inter", "item", "expected"), [
    (swap(b"timestamp:", b"when:"), same, ("'timestamp' is missing", "user_id, item_id, when",
                                                      "--TIME_FIELD=NAME")),
    (same, swap(b"title:", b"titel:"), ("'title' is missing", "did you mean titel?", "--title_field=NAME")),
    (same, swap(b"item_id:", b"iid:"), ("'item_id' is missing", "--ITEM_ID_FIELD=NAME")),
    (same, None, ("no file mine.item", "title:token")),
    (same, without_titles, ("'title' is empty for every item", "--title_field=NAME")),
    (same, swap(b"\ni", b"\nX"), ("no item of mine.inter has a title", "'X0'")),
    (same, swap(b"amber", "ambré".encode("latin-1")), ("not utf-8", "mine.item", "byte 0xe9",
                                                                   "--encoding=latin-1")),
    (same, lambda text: text.decode().encode("utf-16"), ("not utf-8", "mine.item")),
    (swap(b"\ti1\t", b"\ti1\tx\t", 1), same, ("has 4 cells, the first line has 3", "line ", "NF==3")),
    (swap(b"\ti1\t", b"\ti1 ", 1), same, ("has 2 cells", "mine.inter, line ")),
    (same, swap(b"\ni3\t", b"\ni3\tx\t"), ("has 4 cells", "mine.item, line 5")),
    (same, swap(b"dune ember", b"dune\nember"), ("has 2 cells", "mine.item, line 5")),
    (header_only, same, ("no interactions", "mine.inter")),
    (lambda _: b"", same, ("not a header", "mine.inter")),
    (lambda text: text.split(b"\n", 1)[1], same, ("not a header", "user_id:token<TAB>")),
    (swap(b"\t", b","), same, ("a single cell", "--field_separator=,")),
    (lambda text: text + b"u1\ti1\tyesterday\n", same, ("'yesterday'", "line 642")),
])
def test_atomic_files(refused, data, inter, item, expected):
    refused(*expected, **data(inter, item))


def test_nothing_left_after_filtering(refused):
    refused("no interaction is left of 640", "user_inter_num_interval=[100,inf)",
            user_inter_num_interval="[100,inf)")


def test_byte_order_mark_line_ends_and_another_separator_work(run, data):
    mark_and_ends = lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")  # noqa: E731
    code, message = run(**data(mark_and_ends, mark_and_ends))
    assert code == 0, message


def test_commas_work_when_they_are_named(run, data):
    code, message = run(**data(swap(b"\t", b","), swap(b"\t", b",")), field_separator=",")
    assert code == 0, message


def test_catalogue_of_one_item(refused, run, tmp_path):
    write_atomic(tmp_path / "one", "one", [(f"u{i % 5}", "i0", i) for i in range(50)], [("i0", "a title", "c")])
    refused("the number of items is 1", "--topk=[1]", dataset="one", data_path=tmp_path)
    code, message = run(dataset="one", data_path=tmp_path, topk=[1], valid_metric="Hit@1", **FULL)
    assert code == 0, message


def test_two_users(refused, run, tmp_path):
    write_atomic(tmp_path / "two", "two", [(f"u{i % 2}", f"i{i // 2}", i) for i in range(60)],
                 [(f"i{i}", f"a title {i}", "c") for i in range(30)])
    where = {"dataset": "two", "data_path": tmp_path, **ANY_COUNT}
    refused("there are only 32 train windows", "--train_sample=full", **where)
    code, message = run(**where, **FULL)
    assert code == 0, message


def test_users_of_one_interaction(refused, tmp_path):
    write_atomic(tmp_path / "lone", "lone", [(f"u{i}", f"i{i}", i) for i in range(60)],
                 [(f"i{i}", f"a title {i}", "c") for i in range(60)])
    refused("no user has two interactions", dataset="lone", data_path=tmp_path, **ANY_COUNT)


def test_message_of_the_process_itself(toy_settings, data):
    settings = toy_settings(**data(change_item=swap(b"title:", b"titel:")))
    settings.pop("dataset")
    done = subprocess.run([sys.executable, ROOT / "run_recbole_soft.py", *words_of(settings, dataset="mine")],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: column 'title' is missing\n  where:  ")
    assert len(done.stderr.splitlines()) == 3
