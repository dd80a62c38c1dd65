"""The demo without a browser: which panels there are, what they answer, and that no title becomes markup."""

from __future__ import annotations

import importlib.util
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

from recbole_soft.demo import command as demo_command
from recbole_soft.demo.html import panels_html
from recbole_soft.demo.panels import Panel, PanelAnswer, SideBySide, open_panels, shared_items
from recbole_soft.errors import UserError
from recbole_soft.recommend.recommender import CatalogueItem, NearItem, Recommendation, Recommendations
from tests.recommend.conftest import ITEMS, LENGTH, MARKUP

PROGRAM = Path(__file__).parents[2] / "run_recbole_soft.py"


@pytest.fixture
def shown(soft, sasrec) -> SideBySide:
    return SideBySide([Panel(soft, "sft", "saved/a"), Panel(soft, "soft", "saved/a"), Panel(sasrec, "test", "saved/b")])


class Words(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_panels_answer_one_after_the_other(shown, soft, sasrec):
    steps = list(shown.answers(["dune ember", "", "  birch dune "], top=4))
    assert [[one.answer is not None for one in step] for step in steps] == [
        [False, False, False], [True, False, False], [True, True, False], [True, True, True]]
    asked = {"titles": ["dune ember", "birch dune"], "top": 4}
    expected = [soft.recommend(stage="sft", **asked), soft.recommend(stage="soft", **asked), sasrec.recommend(**asked)]
    assert [one.answer.items for one in steps[-1]] == [answer.items for answer in expected]
    assert [one.panel.label for one in steps[-1]] == ["BIGRec SFT", "BIGRec SOFT", "SASRec"]
    counts = shared_items(steps[-1])
    assert sum(counts.values()) == 12 and max(counts.values()) <= 3


def test_what_cannot_be_answered_is_said_in_the_panel(shown):
    *_, last = shown.answers(["nothing like this"], top=4)
    assert all(one.answer is None and "no title" in one.error for one in last)
    page = Words(panels_html(last))
    assert page.text.count("there is no title") == 3 and "Answering" not in page.text


def test_titles_never_become_markup(shown):
    *_, last = shown.answers([MARKUP, "dune ember"], top=ITEMS)
    hostile = '</td><script>alert(1)</script><img src=x onerror="alert(2)">'
    item = Recommendation("1", hostile, hostile, 1, 0.5, 0.5)
    answer = Recommendations((item,), (hostile,), (NearItem("1", hostile, "", 0.1, True),),
                             (CatalogueItem("1", hostile, ""),), 1, (hostile,), "BIGRec SFT", "sft")
    page = Words(panels_html([*last, PanelAnswer(Panel(last[0].panel.recommender, "sft", hostile), answer),
                              PanelAnswer(last[0].panel, error=hostile)]))
    assert page.tags <= {"div", "section", "h3", "h4", "p", "table", "thead", "tbody", "tr", "th", "td", "span"}
    assert page.attributes <= {"class", "aria-label", "role"}
    assert page.text.count(hostile) >= 6


def test_the_page_shows_what_was_written_what_is_near_and_the_places(shown):
    *_, last = shown.answers(["dune ember"], top=2)
    page = Words(panels_html(last))
    assert page.text.count("The model wrote") == 2 and page.text.count("Nearest titles to it") == 2
    for one in last:
        for item in one.answer:
            assert item.title in page.text
            assert f"{item.score if item.distance is None else item.distance:.3f}" in page.text
    assert Words(panels_html([PanelAnswer(last[0].panel)])).text.endswith("Answering ...")


def test_histories_are_searched_for_and_taken_from_users(shown):
    assert shown.search("EMBER du") == ["dune ember"] and shown.search("") == []
    assert len(shown.history_of(" u3 ")) == LENGTH and shown.history_of("u0")[1] == MARKUP
    assert shown.example() == shown.example() and len(shown.example()) >= 2
    assert shown.some_user(random.Random(1)) in {f"u{number}" for number in range(40)}
    with pytest.raises(UserError, match="no user 'x'"):
        shown.history_of("x")


def test_runs_are_opened_once_and_stages_may_be_named(soft_run, sasrec_run):
    panels = open_panels([str(soft_run), f"{sasrec_run}", f"{soft_run}:sft"])
    assert [panel.label for panel in panels] == ["BIGRec SFT", "BIGRec SOFT", "SASRec"]
    assert panels[0].recommender is panels[1].recommender
    with pytest.raises(UserError, match="no stage 'dpo'"):
        open_panels([f"{sasrec_run}:dpo"])
    with pytest.raises(UserError, match="no run is named"):
        open_panels([])


def test_runs_on_other_items_are_refused(shown, soft, sasrec, monkeypatch):
    monkeypatch.setitem(sasrec.run.record["data"], "catalogue", "another")
    with pytest.raises(UserError, match="different items"):
        SideBySide([Panel(soft, "sft", "a"), Panel(sasrec, "test", "b")])


@pytest.mark.parametrize(("words", "expected"), [
    (["--port=1"], "--runs is missing"), (["--runs=a", "--port=0"], "port = 0"), (["--run=a"], "did you mean runs"),
    (["--runs=no/where"], "no such run folder"),
])
def test_the_command_refuses_before_anything_slow(command, monkeypatch, words, expected):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: object())
    done = command("demo", *words)
    assert done.code == 2 and expected in done.err


def test_a_port_that_is_taken_is_told_before_any_run_is_opened(command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: object())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("demo", "--runs=no/where", f"--port={port}")
    assert done.code == 2 and "cannot be served" in done.err and f"--port={port + 1}" in done.err


def test_without_gradio_the_command_says_how_to_get_it(command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    done = command("demo", "--runs=no/where")
    assert done.code == 2 and 'pip install "recbole_soft[demo]"' in done.err


def test_only_this_machine_is_local():
    assert [demo_command.is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.1.2")] == [
        True, True, True, False, False]


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is an optional extra")
def test_the_page_is_served_to_this_machine_alone_until_it_is_interrupted(soft_run, sasrec_run):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["demo", f"--runs={soft_run},{sasrec_run}", f"--port={port}"]
    with subprocess.Popen([sys.executable, str(PROGRAM), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            address = process.stdout.readline().strip()
            assert address == f"http://127.0.0.1:{port}/", process.communicate(timeout=60)
            with urllib.request.urlopen(address, timeout=30) as answer:
                text = answer.read().decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "Left | Right" in text and "fonts.googleapis" not in text
    elsewhere = re.findall(r'(?:src|href)=["\'](https?://[^"\']+)', text)
    assert [url for url in elsewhere if not url.startswith(address)] == []
