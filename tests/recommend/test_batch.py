"""Files of histories: every line is answered or refused with its number, and the rest goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from recbole_soft.errors import UserError
from recbole_soft.recommend.batch import BatchResult, read_lines, recommend_file
from tests.recommend.conftest import BAR

JSON_LINES = [
    '{"id": "a", "history": ["dune ember", "Left | Right"]}', "", '{"history": "dune ember|left \\\\| right"}',
    "no json", '{"id": 7, "item_ids": ["i3", "i0"]}', '{"user_id": 3}', "[1]", '{"user_id": "u4"}',
    '{"history": ["nothing like it"]}',
    '{"history": ["dune ember"], "user_id": "u1"}', '{"id": "empty", "history": []}', '{"history": 5}',
]
BAD_LINES = {4: "no JSON", 6: "no user '3'", 7: "no JSON object", 9: "no title", 10: "exactly one", 11: "empty",
             12: "neither"}


def test_jsonl(soft, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "new folder" / "out.jsonl"
    source.write_text("\n".join(JSON_LINES), encoding="utf-8")
    reported: dict[int, str] = {}
    done: list[int] = []
    result = recommend_file(soft, source, out, top=3, batch_size=2, report=reported.__setitem__, progress=done.append)
    assert result == BatchResult(4, 7) and sum(done) == 11 and max(done) == 2
    assert reported.keys() == BAD_LINES.keys() and all(BAD_LINES[line] in reported[line] for line in reported)
    rows = {row["line"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert list(rows) == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    expected = soft.recommend(titles=["dune ember", BAR], top=3)
    for line, name in ((1, "a"), (3, "3"), (5, "7")):
        found = rows[line]["recommendations"]
        assert rows[line]["id"] == name and [item["item_id"] for item in found] == [item.item_id for item in expected]
        assert [item["distance"] for item in found] == pytest.approx([item.distance for item in expected], rel=1e-4)
        assert rows[line]["generated"] == list(expected.generated)
    assert {line for line, row in rows.items() if "error" in row} == set(BAD_LINES)
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]


def test_csv(sasrec, tmp_path):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    lines = ["\ufeffid, history ,user_id", r'first,"ember dune|Left \| Right",', ",,u3", ",unknown title,", "x,a,u1",
             "y,a,b,c"]
    source.write_text("\n".join(lines), encoding="utf-8")
    assert recommend_file(sasrec, source, out, top=2) == BatchResult(2, 3)
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["id"], row["place"]) for row in rows] == [
        ("2", "first", "1"), ("2", "first", "2"), ("3", "3", "1"), ("3", "3", "2"), ("4", "4", ""), ("5", "x", ""),
        ("6", "y", "")]
    expected = sasrec.recommend(titles=["dune ember", BAR], top=2)
    assert [row["title"] for row in rows[:2]] == [item.title for item in expected]
    assert float(rows[0]["score"]) == pytest.approx(expected[0].score, rel=1e-4)
    assert "cells too many" in rows[-1]["error"] and rows[0]["error"] == ""
    assert rows[0]["notes"] == "'ember dune' was taken for 'dune ember' (the same words)"


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("in.txt", b"history\nA\n", "must end in"), ("in.csv", b"title\nA\n", "names none of the columns"),
    ("in.csv", b"history\n", "no line to answer"), ("in.jsonl", b"\n\n", "no line to answer"),
    ("in.csv", b"history\n\xff\n", "no UTF-8"), ("in.csv", b"", "names none of the columns"),
    ("in.jsonl", None, "no such file"),
])
def test_files_that_cannot_be_used(sasrec, tmp_path, name, content, expected):
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(UserError, match=expected):
        recommend_file(sasrec, source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_input_is_never_replaced(sasrec, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("user_id\nu1\n")
    with pytest.raises(UserError, match="replace the input"):
        recommend_file(sasrec, source, Path(tmp_path, ".", "in.csv"))
    assert source.read_text() == "user_id\nu1\n"


def test_what_was_answered_stays_when_the_rest_fails(sasrec, tmp_path, monkeypatch):
    source = tmp_path / "in.csv"
    source.write_text("user_id\n" + "".join(f"u{number}\n" for number in range(6)))

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_file(sasrec, source, tmp_path / "out.jsonl", top=1, batch_size=2, progress=interrupt)
    kept = (tmp_path / "out.jsonl.part").read_text().splitlines()
    assert [json.loads(line)["history"][0]["item_id"] for line in kept] == ["i0", "i7"]
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_of_several_lines_keep_their_numbers(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text('id,history\na,"x\ny"\nb,z\n')
    assert [(line.number, line.id) for line in read_lines(source)] == [(3, "a"), (4, "b")]
