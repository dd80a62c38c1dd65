"""What is run, what is reused, what happens when a cell fails or a benchmark is killed. Cells are stood in for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from recbole_soft import cli, plugin
from recbole_soft.benchmark import process, runner, validity
from recbole_soft.benchmark.cells import Cell, make_cells
from recbole_soft.benchmark.progress import duration, expected_seconds
from recbole_soft.benchmark.recipe import read_recipe
from recbole_soft.benchmark.runner import Benchmark
from recbole_soft.benchmark.validity import Validity
from recbole_soft.data.sources import data_files
from recbole_soft.reporting.records import read_run
from recbole_soft.resuming.locks import only_process_in
from tests.reporting.runs import some_ranks, write_run

STAGES = {"SFT": ("sft",), "SOFT": ("sft", "soft"), "SOFT_woSA": ("sft", "soft"), "SDPO": ("sft", "sdpo")}
MODELS = ["Pop", "BIGRec_SFT", {"model": "BIGRec_SOFT", "grid": {"alpha": [1, 10]}}]


class StandIn:
    """In place of a process per cell: writes the run that the cell would have written, or fails as told.

    Attributes:
        ran: (model, seed) or `export-teacher` of every process.
        broken: models that fail.
        goes_on: whether the processes of runs were told to go on where an earlier one ended.
        valid_scores: best validation score by alpha.
    """

    def __init__(self):
        self.ran: list[tuple[str, str]] = []
        self.goes_on: list[bool] = []
        self.broken: set[str] = set()
        self.valid_scores: dict[str, float] = {}

    def __call__(self, words, log, environment, tick):
        from recbole_soft.config.soft_config import SoftConfig
        from recbole_soft.run import run_folder

        tick()
        if words[0] == "export-teacher":
            self.ran.append((words[0], ""))
            out = Path(next(word for word in words if word.startswith("--out=")).removeprefix("--out="))
            out.mkdir(parents=True, exist_ok=True)
            (out / "teacher.json").write_text("{}")
            return None
        options = dict(word.removeprefix("--").split("=", 1) for word in words)
        model, dataset = options.pop("model"), options.pop("dataset")
        self.ran.append((model, options["seed"]))
        self.goes_on.append("resume" in options)
        if model in self.broken:
            return "it broke\n  remedy: mend it"
        config = SoftConfig(model, dataset, command_line=options)
        values, seed = dict(config.final_config_dict), int(options["seed"])
        stages = STAGES.get(config["strategy"], ("test",))
        folder = write_run(run_folder(config), model, {
            stage: some_ranks(seed + len(stages) * number) for number, stage in enumerate(stages)}, seed,
            settings={key: str(value) if key == "device" else value for key, value in values.items()}, dataset=dataset,
            data={"files": data_files(Path(config["data_path"]), dataset)})
        score = self.valid_scores.get(options.get("alpha", ""), 0.5)
        record = folder / "run.json"
        record.write_text(record.read_text().replace('"best_valid_score": 0.5', f'"best_valid_score": {score}'))
        return None


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    plugin.install()
    fake = StandIn()
    monkeypatch.setattr(runner, "run_cell", fake)
    return fake


@pytest.fixture
def benchmark(tmp_path, toy_path, stand_in, capsys):
    """Runs a recipe of `models` through the command; gives exit code, stdout and stderr."""
    def call(models=None, **changes) -> tuple[int, str, str]:
        stand_in.ran.clear()
        recipe = {"datasets": ["toy"], "seeds": [1, 2], "models": models or MODELS, "baseline": None,
                  "settings": {"data_path": str(toy_path), "checkpoint_dir": str(tmp_path / "saved")},
                  "output": str(tmp_path / "out"), **changes}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value}))
        code = cli.main(["benchmark", f"--config={tmp_path / 'mine.yaml'}", *call.words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    call.words = []
    return call


def test_every_cell_runs_once_sft_is_taken_from_soft_and_a_second_call_runs_nothing(benchmark, stand_in, tmp_path):
    code, table, err = benchmark()
    assert code == 0
    assert stand_in.ran == [("Pop", "1"), ("BIGRec_SOFT", "1"), ("BIGRec_SOFT", "1"),
                            ("Pop", "2"), ("BIGRec_SOFT", "2"), ("BIGRec_SOFT", "2")]
    for row in ("Pop", "BIGRec SFT", "BIGRec SOFT alpha=1", "BIGRec SOFT alpha=10"):
        assert any(line.startswith(f"{row}  ") for line in table.splitlines())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.txt", "table.md", "table.csv", "table.tex", "report.html", "summary.json", "ranks.npz"}
    assert "[1/8] Pop on toy, seed 1: running; time left unknown" in err and "left" in err and "done in" in err
    assert benchmark()[:2] == (0, table) and stand_in.ran == []


def test_dry_run_says_what_would_happen_and_does_nothing(benchmark, stand_in, tmp_path):
    benchmark(models=["Pop"])
    benchmark.words = ["--dry_run=True"]
    code, plan, _ = benchmark()
    states = [line.split()[1] for line in plan.splitlines() if line.strip()[:1].isdigit() and " on " in line]
    assert code == 0 and stand_in.ran == []
    assert states == ["done", "run", "run", "shared", "done", "run", "run", "shared"]
    assert "8 cells: 2 done, 4 run, 2 shared" in plan


def test_a_failing_cell_is_reported_and_the_rest_goes_on(benchmark, stand_in):
    stand_in.broken = {"BIGRec_SDPO"}
    code, table, err = benchmark(models=["Pop", "BIGRec_SDPO", "BIGRec_SFT"], seeds=[1])
    assert code == 1
    assert stand_in.ran == [("Pop", "1"), ("BIGRec_SDPO", "1"), ("BIGRec_SFT", "1")]
    assert "1 of 3 cells failed; the same command tries them again" in err and "mend it" in err
    assert "BIGRec SFT" in table and "Missing: BIGRec_SDPO on toy, seed 1." in table
    stand_in.broken = set()
    assert benchmark(models=["Pop", "BIGRec_SDPO", "BIGRec_SFT"], seeds=[1])[0] == 0
    assert stand_in.ran == [("BIGRec_SDPO", "1")]


def test_all_failing_leaves_no_table(benchmark, stand_in, tmp_path):
    stand_in.broken = {"Pop"}
    code, table, _ = benchmark(models=["Pop"])
    assert (code, table) == (1, "") and not (tmp_path / "out").exists()


def test_a_grid_is_decided_on_validation_with_the_first_seed(benchmark, stand_in):
    models = ["BIGRec_SFT", {"model": "BIGRec_SOFT", "grid": {"alpha": [1, 10, 5]}, "choose": "validation"}]
    stand_in.valid_scores = {"1": 0.1, "10": 0.3, "5": 0.2}
    code, table, _ = benchmark(models=models, seeds=[1, 2])
    assert code == 0
    assert [seed for model, seed in stand_in.ran if model == "BIGRec_SOFT"] == ["1", "1", "1", "2"]
    assert "BIGRec_SOFT: alpha=10, chosen by validation Hit@10 of seed 1 (alpha=1: 0.1000, alpha=10: 0.3000" in table
    assert table.count("BIGRec SOFT ") == 1 and "alpha=10 " not in table.split("---")[-3]
    stand_in.broken = {"BIGRec_SOFT"}
    code, table, err = benchmark(models=models, seeds=[4, 5])
    assert code == 1 and "the search for its settings is incomplete" in err and "BIGRec SFT" in table


def test_a_teacher_is_exported_once_from_the_row_that_another_run_holds(benchmark, stand_in):
    models = [{"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}, "export": {"sample": 9}}, "BIGRec_SFT",
              "BIGRec_SOFT"]
    assert benchmark(models=models)[0] == 0
    assert stand_in.ran == [("BIGRec_SOFT", "1"), ("export-teacher", ""), ("DLLM2Rec", "1"),
                            ("BIGRec_SOFT", "2"), ("export-teacher", ""), ("DLLM2Rec", "2")]
    assert benchmark(models=models)[0] == 0 and stand_in.ran == []
    stand_in.broken = {"BIGRec_SOFT", "BIGRec_SFT"}
    code, _, err = benchmark(models=models, seeds=[7])
    assert code == 1 and "it needs BIGRec_SFT on toy, seed 7, which failed" in err


def test_a_teacher_that_is_older_than_its_run_is_exported_again(benchmark, stand_in, tmp_path):
    models = ["BIGRec_SFT", {"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}}]
    assert benchmark(models=models, seeds=[1])[0] == 0
    (next((tmp_path / "saved").glob("BIGRec_SFT-*")) / "run.json").write_text("{")
    stand_in.goes_on.clear()
    assert benchmark(models=models, seeds=[1])[0] == 0
    assert [model for model, _ in stand_in.ran] == ["BIGRec_SFT", "export-teacher", "DLLM2Rec"]
    assert stand_in.goes_on == [False, False], "neither a broken record nor another teacher's student is gone on with"


def test_a_row_that_a_run_lends_is_judged_by_its_own_stage(stand_in, tmp_path):
    folder = write_run(tmp_path / "soft", "BIGRec_SOFT", {"sft": some_ranks(1), "soft": some_ranks(2)})
    record = json.loads((folder / "run.json").read_text())
    record["stages"]["sft"]["valid_score"] = 0.25
    record["results"][1]["injection"] = {"gamma": 2.0, "valid_score": 0.75}
    (folder / "run.json").write_text(json.dumps(record))
    run = read_run(folder)
    assert run.raw["best_valid_score"] == 0.5
    assert run.result("sft").valid_score == 0.25 and run.result("soft").valid_score == 0.75
    del record["stages"]["sft"]["valid_score"], record["results"][1]["injection"]
    (folder / "run.json").write_text(json.dumps(record))
    assert (read_run(folder).result("sft").valid_score, read_run(folder).result("soft").valid_score) == (None, 0.5)


def test_a_baseline_that_failed_is_replaced_by_none(benchmark, stand_in):
    """Another row in its place would be tested against without anybody having asked for it."""
    stand_in.broken = {"SASRec"}
    _, table, _ = benchmark(models=["SASRec", "Pop", "BIGRec_SFT"], seeds=[1], baseline="SASRec")
    assert "differs from" not in table and "No tests: 'SASRec' has no run on this data set." in table


def test_an_undecided_grid_shows_which_variants_there_are(benchmark, stand_in):
    models = [{"model": "BIGRec_SOFT", "grid": {"alpha": [1, 10, 5]}, "choose": "validation"}]
    stand_in.valid_scores = {"1": "null"}
    code, table, _ = benchmark(models=models, seeds=[1, 2])
    assert code == 1 and all(f"BIGRec SOFT alpha={alpha} " in table for alpha in (1, 10, 5))


def test_time_left_counts_what_is_missing_and_not_shared(benchmark, stand_in):
    """Runs that are there and rows that another run will hold take no time, wherever they stand."""
    benchmark(models=["Pop", "BIGRec_SOFT"], seeds=[1])
    _, _, err = benchmark(models=["SASRec", "Pop", "BIGRec_SOFT", "BIGRec_SFT"], seeds=[1])
    assert stand_in.ran == [("SASRec", "1")] and "[1/4] SASRec on toy, seed 1: running; about" in err


def test_an_output_that_is_a_file_is_refused_before_anything_runs(benchmark, stand_in, tmp_path):
    (tmp_path / "file").write_text("mine")
    benchmark.words = [f"--output={tmp_path / 'file'}"]
    code, _, err = benchmark(models=["Pop"])
    assert code == 2 and "is a file" in err and stand_in.ran == []


def test_a_seed_twice_is_refused(benchmark, stand_in):
    benchmark.words = ["--seeds=1,1"]
    code, _, err = benchmark(models=["Pop"])
    assert code == 2 and "different integers" in err and stand_in.ran == []


@pytest.mark.parametrize("word", ["--only=Pop", "--seeds=1", "--datasets=toy"])
def test_the_table_of_a_part_does_not_replace_that_of_the_whole(benchmark, tmp_path, word):
    benchmark(models=["Pop", "BIGRec_SFT"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    benchmark.words = [word]
    assert benchmark(models=["Pop", "BIGRec_SFT"])[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in (tmp_path / "out-part").iterdir()} == before.keys()


def folders(tmp_path, model) -> list[Path]:
    return sorted((tmp_path / "saved").glob(f"{model}-toy-*"))


@pytest.mark.parametrize(("damage", "why"), [
    (lambda run, data: (run / "ranks_test.csv").write_text("window,rank\n0,1\n"), "speaks of 200 test windows"),
    (lambda run, data: (run / "ranks_test.csv").unlink(), "ranks of a run cannot be read"),
    (lambda run, data: (run / "run.json").write_text("{"), "no readable record"),
    (lambda run, data: (data / "toy.inter").write_text((data / "toy.inter").read_text() + "u1\ti1\t99999\n"),
     "the files of the data set have changed"),
])
def test_what_is_damaged_or_made_from_other_data_runs_again(benchmark, stand_in, tmp_path, toy_path, damage, why):
    inter = toy_path / "toy" / "toy.inter"
    before = inter.read_text()
    try:
        assert benchmark(models=["Pop"], seeds=[1])[0] == 0
        damage(folders(tmp_path, "Pop")[0], toy_path / "toy")
        code, _, err = benchmark(models=["Pop"], seeds=[1])
        assert code == 0 and stand_in.ran == [("Pop", "1")] and why in err
    finally:
        inter.write_text(before)


def test_other_settings_are_another_run(benchmark, stand_in, tmp_path):
    benchmark(models=["Pop"], seeds=[1])
    benchmark.words = ["--mask_history=none"]
    assert benchmark(models=["Pop"], seeds=[1])[0] == 0
    assert stand_in.ran == [("Pop", "1")] and len(folders(tmp_path, "Pop")) == 2


def test_another_version_of_the_code_runs_again_only_when_asked(benchmark, stand_in, monkeypatch):
    monkeypatch.setattr(validity, "commit", lambda: "def")
    benchmark(models=["Pop"], seeds=[1])
    assert benchmark(models=["Pop"], seeds=[1])[0] == 0 and stand_in.ran == []
    benchmark.words = ["--same_code=True"]
    _, _, err = benchmark(models=["Pop"], seeds=[1])
    assert stand_in.ran == [("Pop", "1")] and "another version of the code: abc" in err


@pytest.mark.parametrize("found", ["def+", None])
def test_the_same_code_cannot_be_asked_for_where_it_has_no_commit(benchmark, stand_in, monkeypatch, found):
    monkeypatch.setattr(validity, "commit", lambda: found)
    benchmark.words = ["--same_code=True"]
    code, _, err = benchmark(models=["Pop"], seeds=[1])
    assert code == 2 and "no commit of its own" in err and stand_in.ran == []


def test_a_local_language_model_that_changed_makes_a_run_invalid(tmp_path):
    model = tmp_path / "llm"
    model.mkdir()
    (model / "model.safetensors").touch()
    folder = write_run(tmp_path / "run", "BIGRec_SFT", {"sft": some_ranks(0)}, settings={"llm_path": str(model)})
    assert "the language model has changed since" in Validity().find(folder, None)[1]
    os.utime(model / "model.safetensors", (0, 0))
    assert Validity().find(folder, None)[0] is not None


def test_a_second_benchmark_in_the_same_folder_is_refused(benchmark, tmp_path):
    work = tmp_path / "saved" / "benchmark" / "mine"
    work.mkdir(parents=True)
    with only_process_in(work, "nothing"):
        code, _, err = benchmark(models=["Pop"])
    assert code == 2 and "another process is at work in this folder" in err and str(work) in err


def test_what_a_killed_benchmark_had_begun_to_write_goes_with_the_next(benchmark, tmp_path):
    """A kill between writing and renaming leaves a hidden file, in the table's folder or the benchmark's own."""
    halves = [tmp_path / "out" / ".table.txt.0123456789ab",
              tmp_path / "saved" / "benchmark" / "mine" / ".times.json.ba9876543210"]
    for half in halves:
        half.parent.mkdir(parents=True)
        half.write_text("half of")
    (tmp_path / "out" / ".mine").write_text("not ours")
    assert benchmark(models=["Pop"], seeds=[1])[0] == 0
    assert not any(half.exists() for half in halves) and (tmp_path / "out" / ".mine").exists()


def test_lenders_need_the_same_sft_settings(tmp_path, toy_path, stand_in):
    models = [{"model": "BIGRec_SFT", "settings": {"lora_r": 4, "tuning": "lora"}}, "BIGRec_SOFT", "BIGRec_ICL",
              {"model": "BIGRec_SDPO", "settings": {"lora_r": 4, "tuning": "lora"}}, "LLaRA_SOFT"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"datasets": ["toy"], "models": models, "settings": {"data_path": str(toy_path)}}))
    cells = make_cells(read_recipe(path))
    state = Benchmark(cells, tmp_path, Validity())
    sft = next(cell for cell in cells if cell.entry.model == "BIGRec_SFT")
    assert [cell.entry.model for cell in state.lenders(sft)] == ["BIGRec_SDPO"]


# ---- time left ----------------------------------------------------------------------------------
def test_time_left_is_that_of_the_likest_cells():
    class Entry:
        model = "Pop"

    def cell(entry, seconds=None, dataset="toy", model="Pop"):
        entry.model = model
        return Cell(entry, dataset, 1, {}, {}, seconds=seconds)

    mine, other = Entry(), Entry()
    known = [cell(mine, 10), cell(mine, 30), cell(mine, 20), cell(other, 99)]
    assert expected_seconds(cell(mine), known) == 20
    assert expected_seconds(cell(Entry()), known) == 25 and expected_seconds(cell(mine), []) is None
    assert [duration(seconds) for seconds in (40, 720, 11100)] == ["40 s", "12 min", "3 h 05 min"]


# ---- processes ----------------------------------------------------------------------------------
def test_a_cell_is_a_process_whose_failure_is_told(tmp_path):
    log = tmp_path / "logs" / "cell.log"
    assert process.run_cell(["--version"], log, os.environ, lambda: None) is None
    assert log.read_text().startswith("recbole_soft ")
    told = process.run_cell(["--modell=Pop"], log, os.environ, lambda: None)
    assert "there is no such setting" in told or "--model is missing" in told


def test_how_a_process_ended_is_said(tmp_path):
    log = tmp_path / "cell.log"
    assert "SIGKILL, perhaps for want of memory" in process.failure(-signal.SIGKILL, log)
    log.write_text("Traceback\nValueError: a bug\n\n")
    assert process.failure(1, log) == f"ValueError: a bug ({log})"
    log.write_text("loading\nerror: wrong\n  remedy: right\n")
    assert process.failure(2, log) == "wrong\n  remedy: right"


def test_a_cell_ends_when_the_benchmark_is_killed():
    program = ("import threading, time; from recbole_soft.benchmark import process;"
               "threading.Thread(target=process._end_with_the_benchmark, daemon=True).start(); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": str(process._CHECKOUT)})
    time.sleep(0.2)
    assert child.poll() is None
    child.stdin.close()  # what the end of the parent does, whatever ended it
    assert child.wait(20) == os.EX_TEMPFAIL
