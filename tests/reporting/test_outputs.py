"""The table as text in four forms, summaries that give the same table again, and the command."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from recbole_soft import cli
from recbole_soft.reporting.comparison import compare, compare_methods
from recbole_soft.reporting.comparison_formats import FORMATS, comma_separated, latex, markdown, terminal
from recbole_soft.reporting.methods import Method, group_methods
from recbole_soft.reporting.records import RecordError, read_records
from recbole_soft.reporting.summaries import Summary, read_summary, write_summary
from tests.reporting.runs import some_ranks, write_run

NASTY = r"A_b & 5% {x} \y #1 ~^$ |<"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    users = [f"u{row // 5}" for row in range(200)]
    for seed in (1, 2):
        for name, good in (("BIGRec_SFT", 0.0), ("BIGRec_SDPO", 0.05), ("BIGRec_SOFT", 0.6)):
            stage = name.split("_")[1].lower()
            write_run(root / f"{name}{seed}", name, {stage: some_ranks(seed + len(name), good=good)}, seed, users=users)
    write_run(root / "pop", "Pop", {"test": some_ranks(5)}, users=users)
    return root


@pytest.fixture(scope="module")
def comparison(saved):
    return compare(read_records([saved]), metrics=["HR@5", "NDCG@20"])


def test_terminal_marks_best_second_and_significant(comparison):
    lines = terminal(comparison).splitlines()
    row = next(line for line in lines if line.startswith("BIGRec SOFT"))
    assert "¹±" in row and "*" in row and "%" in row
    assert sum("¹" in line for line in lines) == 2  # the row and the caption
    assert "200 test windows of 40 users, full ranking of 100 items (mask_history: full)" in "\n".join(lines)
    assert "p Holm" not in terminal(comparison) and "p Holm" in terminal(comparison, details=True)
    assert len({len(line) for line in lines[1:8]}) == 1


def test_a_difference_of_nothing_needs_no_wide_column(tmp_path):
    """Two windows apart by the smallest step of NDCG, in both directions."""
    ranks = some_ranks(3)
    write_run(tmp_path / "sft", "BIGRec_SFT", {"sft": [1, 2, 3, 3, *ranks[4:]]})
    write_run(tmp_path / "pop", "Pop", {"test": [2, 1, 3, 3, *ranks[4:]]})
    text = terminal(compare(read_records([tmp_path]), metrics=["NDCG@20"], baseline="BIGRec SFT"), details=True)
    rows = [line for line in text.splitlines() if line.startswith("Pop") and "NDCG@20" in line]
    assert len(rows) == 1 and len(rows[0]) < 150 and rows[0].endswith(("  -", "  over 1,000,000,000"))


def test_markdown_tables_have_one_width_and_bold_best(comparison):
    text = markdown(comparison)
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in text.split("###")]
    for table in tables:
        assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert len(tables[0]) == 2 + 4 and len(tables[1]) == 2 + 4 * 2
    best = next(line for line in tables[0] if "BIGRec SOFT" in line)
    assert "**" in best and r"\*" in best and "<u>" in text


def test_markdown_escapes_what_would_mean_something(saved):
    runs = group_methods(read_records([saved]))
    text = markdown(compare_methods([replace(method, label=f"{method.label} <a|b*>") for method in runs]))
    assert "<a" not in text and text.count(r"&lt;a\|b\*>") > len(runs)
    assert not [line for line in text.splitlines() if line.startswith("* ")], "a caption is no list"


def test_csv_holds_every_number_in_full(comparison):
    rows = list(csv.DictReader(io.StringIO(comma_separated(comparison))))
    assert len(rows) == 4 * 2
    for row in rows:
        found = next(each for each in comparison.blocks[0].rows if each.method.label == row["method"])
        cell = found.cells[row["metric"]]
        assert float(row["mean"]) == cell.mean and float(row["low"]) == cell.low
        assert (row["p_holm"] == "") == np.isnan(cell.p_holm)
        assert [float(value) for value in row["by_seed"].split()] == pytest.approx(cell.by_seed, abs=1e-6)
    soft = next(row for row in rows if row["method"] == "BIGRec SOFT")
    assert soft["gain_over"] in ("BIGRec SFT", "BIGRec SDPO") and int(soft["wins"]) > int(soft["losses"])


def test_latex_is_booktabs_and_escaped(saved):
    methods = group_methods(read_records([saved]))
    methods[0] = Method(NASTY, methods[0].results, methods[0].name)
    text = latex(Summary(methods, ["HR@5"], baseline="BIGRec SFT").compared())
    assert r"A\_b \& 5\% \{x\} \textbackslash{}y \#1 \textasciitilde{}\textasciicircum{}\$ " in text
    assert r"\textbar{}\textless{}" in text
    lines = text.splitlines()
    columns = next(line for line in lines if r"\begin{tabular}" in line).split("{")[-1].rstrip("}")
    rows = [line for line in lines if line.endswith(r"\\") and r"\multicolumn" not in line]
    assert all(line.replace(r"\&", "").count("&") == len(columns) - 1 for line in rows) and len(rows) == 5
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{"):
        assert text.count(rule) == 1
    assert r"\textbf{" in text and r"\ast" in text and "mask\\_history" in text
    assert text.count("{") == text.count("}")


def test_a_summary_gives_the_same_table_in_every_form(saved, tmp_path):
    summary = Summary(group_methods(read_records([saved])), ["HR@5", "NDCG@20"], "BIGRec SFT", {"toy": ["a note"]})
    write_summary(tmp_path, summary)
    again = read_summary(tmp_path)
    assert (again.metrics, again.baseline) == (["HR@5", "NDCG@20"], "BIGRec SFT")
    before, after = summary.compared(), again.compared()
    for form in FORMATS.values():
        assert form(after) == form(before)
    assert "A note." in terminal(after)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 15_000


def test_a_summary_keeps_what_reports_need_and_no_paths_of_this_machine(saved, tmp_path):
    methods = group_methods(read_records([saved]))
    write_summary(tmp_path, Summary(methods))
    run = read_summary(tmp_path).methods[0].results[0].run
    theirs = methods[0].results[0].run
    assert run.curves_by_stage == theirs.curves_by_stage and run.seed == theirs.seed
    assert {key: value for key, value in theirs.config.items() if key != "checkpoint_dir"} == run.config
    users = read_summary(tmp_path).methods[0].results[0].table.columns["user"]
    assert len(np.unique(users)) == 40 and users.dtype.kind in "iu"
    text = (tmp_path / "summary.json").read_text()
    assert "checkpoint_dir" not in text and str(saved) not in text


def test_runs_may_lack_settings_that_others_have(tmp_path):
    """Pop has no alpha and SASRec's own settings are nobody else's; each gets back what it had."""
    write_run(tmp_path / "a", "Pop", {"test": some_ranks(0)})
    write_run(tmp_path / "b", "SASRec", {"test": some_ranks(1)}, settings={"n_layers": 2})
    methods = group_methods(read_records([tmp_path / "a", tmp_path / "b"]))
    write_summary(tmp_path / "s", Summary(methods))
    configs = [method.results[0].run.config for method in read_summary(tmp_path / "s").methods]
    assert "n_layers" not in configs[0] and configs[1]["n_layers"] == 2


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "ranks.npz").write_bytes(b"nothing"), lambda folder: (folder / "ranks.npz").unlink(),
    lambda folder: (folder / "summary.json").write_text('{"schema": 9}'),
    lambda folder: (folder / "summary.json").write_text("[]"),
])
def test_a_damaged_summary_is_refused(saved, tmp_path, damage):
    write_summary(tmp_path, Summary(group_methods(read_records([saved]))))
    damage(tmp_path)
    with pytest.raises(RecordError) as refused:
        read_summary(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_the_command_from_runs_to_summary_to_the_same_table(saved, tmp_path, capsys):
    assert cli.main(["compare", f"--runs={saved}", "--baseline=BIGRec_SDPO", "--metrics=HR@5,HR@20",
                     f"--save={tmp_path / 's'}", f"--out={tmp_path / 'o'}"]) == 0
    first = capsys.readouterr().out
    assert "differs from BIGRec SDPO" in first and "HR@20" in first and "NDCG" not in first
    assert {path.name for path in (tmp_path / "o").iterdir()} == {f"table.{ending}" for ending in FORMATS}
    assert (tmp_path / "o" / "table.txt").read_text() == first
    assert cli.main(["compare", f"--from={tmp_path / 's'}"]) == 0
    assert capsys.readouterr().out == first
    assert cli.main(["compare", f"--from={tmp_path / 's'}", "--format=csv"]) == 0
    assert capsys.readouterr().out.startswith("dataset,method,metric")


@pytest.mark.parametrize(("words", "told"), [
    (["--run=x"], "did you mean runs"), ([], "usage"), (["--runs=a", "--from=b"], "either --runs or --from"),
    (["--runs=nowhere"], "no such folder"), (["--from=nowhere"], "no readable summary"),
    (["--runs={saved}", "--baseline=BIGRec_SFF"], "did you mean BIGRec SFT"),
    (["--runs={saved}", "--datasets=toi"], "did you mean toy"), (["--runs={saved}", "--format=html"], "known: csv"),
])
def test_mistakes_end_in_one_message(saved, capsys, words, told):
    code = cli.main(["compare", *(word.format(saved=saved) for word in words)])
    captured = capsys.readouterr()
    assert (code, told in captured.err) == (2, True) if words else code == 0 and "--runs" in captured.out
