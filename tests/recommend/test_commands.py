"""`recommend` as a user types it: table, JSON, files, exit codes, and nothing on stdout but the result."""

from __future__ import annotations

import json

import pytest

from recbole_soft.recommend.formats import as_table, clean
from recbole_soft.recommend.recommender import CatalogueItem, Recommendation, Recommendations


def test_a_table_for_people(command, soft_run, soft):
    done = command("recommend", f"--run={soft_run}", "--history=LEFT \\| right|Am\u00e9lie", "--top=3", "--stage=sft")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("BIGRec SFT on toy") and "history: Left | Right | Am\u00e9lie (2001)" in lines
    expected = soft.recommend(titles=["Left | Right", "Am\u00e9lie (2001)"], top=3, stage="sft")
    table = lines[-3:]
    for item, line in zip(expected, table, strict=True):
        cells = line.split("  ")
        assert line.split()[:2] == [str(item.place), item.item_id] and item.title in line
        assert cells[-1].strip() == f"{item.distance:.4f}"
    assert "'Am\u00e9lie' was taken for 'Am\u00e9lie (2001)'" in done.err and "taken for" not in done.out


def test_json_for_programs(command, sasrec_run, sasrec):
    done = command("recommend", f"--run={sasrec_run}", "--user_id=u3", "--format=json", "--top=2")
    found = json.loads(done.out)
    assert done.code == 0 and (found["model"], found["dataset"], found["stage"]) == ("SASRec", "toy", "test")
    expected = sasrec.recommend(user_id="u3", top=2)
    assert [item["item_id"] for item in found["recommendations"]] == [item.item_id for item in expected]
    assert found["recommendations"][0]["distance"] is None and len(found["history"]) == len(expected.history)


def test_files_and_exit_codes(command, sasrec_run, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"user_id": "u1"}\n{"user_id": "nobody"}\n')
    words = ["recommend", f"--run={sasrec_run}", f"--input={source}", f"--output={out}", "--batch_size=1"]
    done = command(*words)
    assert done.code == 3 and done.out == f"{out}\n" and len(out.read_text().splitlines()) == 2
    assert f"{source}, line 2: there is no user 'nobody'" in done.err
    assert "1 histories answered, 1 lines refused" in done.err
    source.write_text('{"user_id": "u1"}\n')
    assert command(*words).code == 0


@pytest.mark.parametrize(("words", "expected"), [
    (["--history=a"], "--run is missing"), (["--run=x"], "given: none"), (["--run=x", "--histroy=a"], "mean history"),
    (["--run=x", "--history=a", "--user_id=1"], "given: --history, --user_id"), (["--run=x", "--history=|"], "empty"),
    (["--run=x", "--history=a", "--top=no"], "top = no"), (["--run=x", "--history=a", "--format=xml"], "table or json"),
    (["--run=x", "--history=a", "--output=o.csv"], "add --input"), (["--run=x", "--input=in.csv"], "--output is miss"),
    (["--run=no/where", "--history=a"], "no such run folder"), (["--run=x", "--history", "a"], "write --history=a"),
])
def test_mistakes_end_in_one_message_before_anything_slow(command, words, expected):
    done = command("recommend", *words)
    assert done.code == 2 and done.out == "" and expected in done.err
    assert done.err.count("error: ") == 1 and "Traceback" not in done.err


def test_an_unknown_title_ends_in_one_message(command, soft_run):
    done = command("recommend", f"--run={soft_run}", "--history=dune embers|dune")
    assert done.code == 2 and done.out == "" and "did you mean" in done.err and "'dune ember'" in done.err


def test_help_is_there(command):
    assert "--history" in command("recommend", "--help").out and "--runs" in command("demo").out


def test_no_title_can_steer_a_terminal():
    hostile = "\x1b[31mred\x07\u202e right to left\nline"
    assert clean(hostile) == "\ufffd[31mred\ufffd\ufffd right to left line"
    item = Recommendation(hostile, hostile, hostile, 1, 0.5, None)
    answer = Recommendations((item,), (hostile,), (), (CatalogueItem("1", hostile, ""),), 1, (), "SASRec", "test")
    assert not set("\x1b\x07\u202e") & set(as_table(answer, hostile))


def test_columns_stay_within_the_terminal_and_wide_letters_count_twice():
    items = tuple(Recommendation(f"i{place}", title, "category of some length", place, 1.0, 0.25)
                  for place, title in enumerate(("short", "\u6620\u753b" * 30, "word " * 40), 1))
    answer = Recommendations(items, (), (), (), 1, (), "BIGRec SFT", "sft")
    lines = as_table(answer, "heading", 60).splitlines()
    assert all(len(line) + sum(letter > "\u2e80" for letter in line) <= 60 for line in lines)
    assert all(line.endswith("0.2500") for line in lines[-3:])
    assert "nothing is left" in as_table(Recommendations((), (), (), (), 1, (), "x", "y"), "heading")
