"""The page: what it shows, that it is whole, safe and complete in itself, and what it says where data are missing."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft import cli
from recbole_soft.reporting.comparison import compare
from recbole_soft.reporting.html import alpha, answers, breakdown, cost, curves
from recbole_soft.reporting.html.page import report_page
from recbole_soft.reporting.html.view import groups_of
from recbole_soft.reporting.methods import equal_but_for_rounding
from recbole_soft.reporting.records import read_records
from tests.reporting.made_runs import changed, example, write_run
from tests.reporting.test_markup import EVIL, Reader

VOID = {"br", "meta", "input", "hr"}


def groups(*folders: Path):
    return groups_of(compare(read_records(folders)))


def page(*folders: Path) -> str:
    return report_page(compare(read_records(folders)), now=datetime(2026, 1, 2, tzinfo=UTC))


SFT_RANKS = [1, 50, 60, 70, 80, 90, 99, 100]


def soft_run(folder: Path, seed: int = 42, alpha_value: float = 1.0, hits: int = 4, **changes) -> Path:
    """A SOFT run whose second stage hits `hits` of 8 windows."""
    run_curves = [
        {"stage": "sft", "epoch": 0, "loss_total": 2.0, "loss_sft": 2.0, "valid_hit@10": 0.1, "train_seconds": 10.0,
         "valid_seconds": 1.0},
        {"stage": "soft", "epoch": 0, "loss_total": 1.0, "loss_sdft": 1.0, "tau": 1.0, "distance": 5.0,
         "valid_hit@10": 0.2, "train_seconds": 20.0, "valid_seconds": 2.0},
        {"stage": "soft", "epoch": 1, "loss_total": 0.8, "loss_sdft": 0.4, "loss_sft": 1.2, "tau": 0.5, "distance": 4.0,
         "valid_hit@10": 0.3, "train_seconds": 20.0, "valid_seconds": 2.0}]
    notes = {"self_distillation": {"windows": 9, "hr_at_1": 0.01, "category_accuracy": 0.4, "valid_titles": 0.9,
                                   "distinct_answers": 3, "mean_distance": 2.0}}
    config = {"alpha": alpha_value, "schedule": "exponential", "start_from": "base", **changes.pop("config", {})}
    return write_run(folder, "BIGRec_SOFT", {"sft": SFT_RANKS,
                                             "soft": [1] * hits + [100] * (8 - hits)},
                     seed, config=config, **{"curves": run_curves, "notes": notes, **changes})


# ---- safe and complete in itself ---------------------------------------------------------------------
def test_titles_and_settings_cannot_become_markup(tmp_path):
    lines = [example(place, title) for place, title in enumerate(EVIL)]
    distilled = [{"target": title, "answer": title, "grounded": title, "prompt": title, "distance": 1.0,
                  "category_matches": None} for title in EVIL]
    folders = [soft_run(tmp_path / f"run{place}", seed=place, examples={"soft": lines, "distilled": distilled},
                        versions={title: title}, commit=title, machine={"platform": title},
                        config={"note": title}) for place, title in enumerate(EVIL)]
    text = report_page(compare(read_records(folders)), title=EVIL[1])
    read = Reader(text)
    names = [name for name, _ in read.elements]
    assert names.count("script") == 1 and "img" not in names
    assert not [key for _, attributes in read.elements for key in attributes if key.startswith("on")]
    assert "alert(1)" in "".join(read.texts) and "\x00" not in text
    assert text.count("<script>") == text.count("</script>") == 1 and "<!--" not in text


def test_the_page_loads_nothing_and_runs_its_own_script_alone(tmp_path):
    text = page(soft_run(tmp_path / "run"))
    read = Reader(text)
    for name, attributes in read.elements:
        assert "src" not in attributes and name not in ("link", "iframe", "object")
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in text and "@import" not in text
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    policy = next(attributes["content"] for _, attributes in read.elements
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")


def test_every_element_is_closed_and_every_link_of_the_contents_leads_somewhere(tmp_path):
    text = page(soft_run(tmp_path / "run", examples={"soft": [example()]}), write_run(tmp_path / "pop", "Pop", {
        "test": range(1, 9)}))
    stack: list[str] = []

    class Balance(Reader):
        def handle_starttag(self, name, attributes):
            super().handle_starttag(name, attributes)
            stack.extend([] if name in VOID else [name])

        def handle_endtag(self, name):
            assert stack.pop() == name

    read = Balance(text)
    assert not stack
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    links = [attributes["href"][1:] for name, attributes in read.elements if name == "a"]
    assert len(set(ids)) == len(ids) and set(links) <= set(ids) and len(links) > 5


def test_sortable_columns_say_so_and_numbers_can_be_sorted(tmp_path):
    text = page(soft_run(tmp_path / "run"))
    tables = re.findall(r'<table class="sortable".*?</table>', text, re.DOTALL)
    assert tables
    for table in tables:
        headings = re.findall(r"<th scope=\"col\"[^>]*>", table)
        assert headings and all('aria-sort="none"' in heading for heading in headings)
        assert table.count("<button") == len(headings)
    # The first table: two methods with four metrics and a gain, sorted by numbers and not by what is read.
    keys = re.findall(r'<td data-sort="([^"]+)" class="num', tables[0])
    assert len(keys) == 10 and all(-1 <= float(key) <= 5 for key in keys)
    assert [float(key) for key in keys[:4]] == pytest.approx([0.125, 0.125, 0.125, 0.125])


# ---- numbers -----------------------------------------------------------------------------------------
def test_curves_are_means_over_seeds(tmp_path):
    rows = [{"epoch": 0, "tau": 1.0}, {"epoch": 1, "tau": 0.5}, {"epoch": 0, "tau": 0.8}, {"epoch": 2, "tau": None}]
    points = curves.mean_curve(rows, lambda row: row["tau"])
    assert [(point.x, point.y) for point in points] == [(1, pytest.approx(0.9)), (2, 0.5)]
    assert "mean of 2 seeds" in points[0].tip and "mean" not in points[1].tip
    body = curves.section(groups(soft_run(tmp_path / "a"), soft_run(tmp_path / "b", seed=43))).body
    assert "Weight tau" in str(body) and "stage soft: own answers" in str(body)


def test_alpha_is_swept_where_nothing_else_differs(tmp_path):
    folders = [soft_run(tmp_path / f"{value}-{seed}", seed, value, hits=int(2 + value)) for value in (1.0, 3.0)
               for seed in (42, 43)]
    text = str(alpha.section(groups(*folders)).body)
    assert text.count("<h3>") == 1
    rows = re.findall(r'<tr><th scope="row" class="num">([\d.]+)</th>.*?</tr>', text)
    assert rows == ["1.0", "3.0"]
    # HR@20 by alpha: 3 and 5 of 8 windows
    assert "0.3750" in text and "0.6250" in text and "(2 seeds)" in text
    one = alpha.section(groups(folders[0], soft_run(tmp_path / "other", 43, 3.0, config={"lora_r": 4})))
    assert one.body is None and "alpha" in one.reason


def test_time_adds_the_stages_up_and_memory_is_the_run_s(tmp_path):
    from recbole_soft.reporting.html.view import peak_memory_mb, training_seconds

    run = read_records([soft_run(tmp_path / "run")])[0]
    assert training_seconds(run.result("sft")) == 11 and training_seconds(run.result("soft")) == 11 + 44
    assert training_seconds(read_records([write_run(tmp_path / "pop", "Pop")])[0].results[0]) == 3.0
    assert peak_memory_mb(run) == ("main", 100.0)
    assert "NDCG@20 against time" in str(cost.section(groups(tmp_path / "run")).body)


def test_first_epochs_are_compared_only_from_one_start(tmp_path):
    fresh = read_records([soft_run(tmp_path / "fresh")])[0]
    going_on = read_records([soft_run(tmp_path / "on", config={"start_from": "sft"})])[0]
    assert answers.first_epoch_losses(fresh.result("soft")) == (2.0, 1.0)
    assert answers.first_epoch_losses(fresh.result("sft")) is None
    assert answers.first_epoch_losses(going_on.result("soft")) is None
    assert "-50%" in str(answers.section(groups(tmp_path / "fresh")).body)


def test_self_distilled_answers_are_the_supervised_model_s_and_told_once(tmp_path):
    group = groups(soft_run(tmp_path / "a", alpha_value=1.0), soft_run(tmp_path / "b", alpha_value=3.0))[0]
    found = answers.answers_of(group)
    assert [(one.method.name, one.windows) for one in found] == [("BIGRec SFT", "training")]
    assert found[0].mean("category_accuracy") == 0.4


def test_self_distilled_answers_stand_with_the_supervised_model_of_the_same_settings(tmp_path):
    folders = []
    for steps in (1200, 3600):
        config = {"tiny_steps": steps}
        folders += [write_run(tmp_path / f"sft{steps}", "BIGRec_SFT", {"sft": SFT_RANKS}, config=config),
                    soft_run(tmp_path / f"soft{steps}", config=config)]
    found = answers.answers_of(groups(*folders)[0])
    assert [one.method.name for one in found if one.windows == "training"] == [
        "BIGRec SFT tiny_steps=1200", "BIGRec SFT tiny_steps=3600"]


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.integers(0, 60), min_size=1, max_size=80), most=st.integers(2, 6))
def test_every_window_is_in_one_part_and_parts_are_in_order(values, most):
    values = np.array(values)
    parts = breakdown.bins_of(values, most)
    assert np.sum([part.rows for part in parts], axis=0).tolist() == [1] * len(values)
    assert 1 <= len(parts) <= most
    for part in parts:
        assert part.low == values[part.rows].min() and part.high == values[part.rows].max()
    assert all(one.high < other.low for one, other in pairwise(parts))
    if (values == 0).mean() >= breakdown.LEAST_SHARE and len(set(values)) > 1:
        assert parts[0].high == 0


def test_hits_are_broken_down_by_popularity_and_history(tmp_path):
    columns = {"popularity": [0, 0, 5, 5, 5, 9, 9, 9], "history": [10] * 8}
    folders = [write_run(tmp_path / str(seed), "SASRec", {"test": ranks}, seed, columns=columns)
               for seed, ranks in ((1, [1, 99, 1, 1, 99, 99, 99, 99]), (2, [99, 99, 1, 1, 1, 99, 99, 99]))]
    text = str(breakdown.section(groups(*folders)).body)
    shares = [float(value) for value in re.findall(r'data-sort="([\d.]+)" class="num"', text)]
    assert shares == pytest.approx([0.25, 5 / 6, 0.0])
    assert "By length of the history: not shown, it is 10 in every window." in text


# ---- what is missing, what is large --------------------------------------------------------------------
def test_sections_without_data_are_left_out_with_a_reason(tmp_path):
    text = page(write_run(tmp_path / "pop", "Pop", curves=[]))
    shown = re.findall(r"<h2>([^<]+)</h2>", text)
    assert shown == ["Results", "Quality against time and memory", "All runs", "Provenance", "Left out"]
    left = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", text))
    assert set(left) == {"Training curves", "Alpha sweep", "Answers of the language models", "Where hits come from",
                         "Examples"}
    assert all(len(reason) > 20 for reason in left.values())


def test_damaged_examples_and_bare_records_do_not_stop_the_page(tmp_path):
    folder = soft_run(tmp_path / "run", examples={"soft": [example()]})
    (folder / "examples_soft.jsonl").write_text('{"window": 0}\nnot json\n[1]\n', encoding="utf-8")
    changed(folder, versions={}, machine={}, peak_memory=None, seconds={}, language_model={}, notes=None)
    assert "Examples" in page(folder)


def test_two_hundred_runs_stay_small(tmp_path):
    columns = {"popularity": list(range(8)), "history": [10] * 8}
    lines = [example(place, "A rather long title of a film, with its subtitle: " * 2) for place in range(50)]
    folders = [soft_run(tmp_path / f"{place}-{seed}", seed, float(place), hits=place % 8, columns=columns,
                        examples={"sft": lines, "soft": lines}) for place in range(10) for seed in range(20)]
    text = page(*folders)
    assert "200 runs, 11 methods, 20 seeds" in text and len(text.encode()) < 5 * 2**20
    assert text.count('class="example"') <= 16 and text.count("BIGRec SOFT alpha=9.0") >= 4


# ---- the command ---------------------------------------------------------------------------------------
def test_the_command_writes_one_file_and_says_so(tmp_path, capsys):
    soft_run(tmp_path / "saved" / "a")
    write_run(tmp_path / "saved" / "b", "Pop", {"test": range(1, 9)})
    out = tmp_path / "page.html"
    assert cli.main(["report", f"--from={tmp_path / 'saved'}", f"--out={out}", "--title=Mine & yours",
                     "--metrics=HR@5,NDCG@10"]) == 0
    text = out.read_text(encoding="utf-8")
    assert str(out) in capsys.readouterr().out and "<h1>Mine &amp; yours</h1>" in text
    assert "2 runs, 3 methods, 1 seed, on toy." in text
    assert ">NDCG@10</button>" in text and ">HR@20</button>" not in text


@pytest.mark.parametrize(("words", "told"), [
    (["--out=x.html"], "give either --runs or --from"),
    (["--from=saved", "--outt=x"], "did you mean out?"),
    (["--from=nowhere"], "there is no such folder"),
    (["--runs=saved", "--baseline=Pup"], "there is no method 'Pup'"),
    (["--runs=saved", "--datasets=game"], "there is no run on 'game'"),
    (["--runs=saved", "--out=."], "is a folder"),
])
def test_mistakes_end_in_one_message(tmp_path, capsys, words, told):
    write_run(tmp_path / "saved" / "b", "Pop")
    assert cli.main(["report", *words]) == 2
    assert told in capsys.readouterr().err


def test_help_names_every_option(capsys):
    from recbole_soft.reporting.report_cli import OPTIONS

    assert cli.main(["report", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--{option}=" in text for option in OPTIONS)


def test_rows_of_the_same_weights_may_differ_by_rounding_but_not_by_more(tmp_path):
    ranks = np.arange(1, 101)
    near, far, many = ranks.copy(), ranks.copy(), np.minimum(ranks + 1, 100)
    near[[70, 90]] += 1
    far[70] += 2
    assert equal_but_for_rounding(ranks, ranks) and equal_but_for_rounding(ranks, near)
    assert not equal_but_for_rounding(ranks, far) and not equal_but_for_rounding(ranks, many)
    assert not equal_but_for_rounding(ranks, ranks[:50])
    folders = [write_run(tmp_path / name, f"BIGRec_{name}", {"sft": own, "soft" if name == "SOFT" else "sdpo": ranks})
               for name, own in (("SOFT", ranks), ("SDPO", near))]
    assert [method.name for method in groups(*folders)[0].methods].count("BIGRec SFT") == 1
