"""The benchmark on a tiny scale: every stage gives equal results both ways, and the report holds what was measured."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import plain
from benchmarks.job import JobSize
from benchmarks.measure import MEMORY_ROUNDS, Measurement, Spread, Stage, measure
from benchmarks.report import document, table
from benchmarks.scaling import axes
from benchmarks.stages import STAGE_NAMES, Workload, stage_makers
from benchmarks.workbench import Size, answers_to, large_catalogue, open_workbench

LOAD = Workload(step_windows=9, prompts=3, answers=20, items=1700, job=JobSize(3, 2, 3, 2), rounds=1, job_rounds=1)
TINY = Size(hidden_size=32, layers=2, vocabulary=4500, teaching_steps=60, teaching_rate=1e-2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pytest"])
        return open_workbench(TINY, "cpu", tmp_path_factory.mktemp("benchmark"))


@pytest.mark.parametrize("name", ["sft", "soft", "sdpo"])
def test_training_steps_have_equal_losses_and_gradients(bench, name):
    stage = stage_makers(bench, LOAD)[name]()
    ours, theirs = stage.ours(), stage.plain()
    assert len(ours.gradients) == 8 and all(gradient.abs().sum() > 0 for gradient in ours.gradients.values())
    assert max(stage.equality(ours, theirs).values()) < 1e-4


def test_a_step_leaves_the_weights_alone(bench):
    stage = stage_makers(bench, LOAD)["soft"]()
    assert stage.ours().loss == stage.ours().loss


def test_answers_and_ranks_are_equal(bench):
    makers = stage_makers(bench, LOAD)
    for name, wanted in (("generation", "equal_all_beams"), ("ranking", "ours_exact"), ("scored", "ours_exact")):
        stage = makers[name]()
        assert stage.equality(stage.ours(), stage.plain())[wanted] == 1, name


def test_grounding_ranks_agree(bench):
    stage = stage_makers(bench, LOAD)["grounding"]()
    stage.prepare()
    assert stage.equality(stage.ours(), stage.plain())["equal_ranks"] > 0.8


def test_the_job_is_the_same_both_ways_and_leaves_the_adapter_as_it_was(bench):
    before = bench.model.weights.state("benchmark")
    stage = stage_makers(bench, LOAD)["job"]()
    stage.prepare()
    ours, theirs = stage.ours(), stage.plain()
    assert len(ours.losses) == 4 and ours.taus[0] == 1.0
    found = stage.equality(ours, theirs)
    assert found["loss_error"] < 1e-3 and found["equal_answers"] == 1
    after = bench.model.weights.state("benchmark")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_softmax_dpo_is_its_formula():
    ratios = torch.tensor([[0.3], [-0.2], [0.1]])
    inner = -math.log(math.exp(0.5 * (-0.2 - 0.3)) + math.exp(0.5 * (0.1 - 0.3)))
    assert float(plain.softmax_dpo_loss(ratios, 0.5)) == pytest.approx(-math.log(1 / (1 + math.exp(-inner))))


def test_plain_ranks_are_those_of_a_sort():
    assert plain.sorted_ranks(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [4.0], [2.0]]),
                              torch.tensor([2, 2])).tolist() == [2, 2]


class _Sleepless(Stage):
    name, what, target = "toy", "adds", 2.0

    def __init__(self):
        self.calls = []

    def prepare(self):
        self.calls.append("prepare")

    def ours(self):
        self.calls.append("ours")
        return 1

    def plain(self):
        self.calls.append("plain")
        return torch.zeros(1 << 24).add_(1)  # 64 MB

    def equality(self, ours, plain):
        return {"difference": float(plain[0]) - ours}


def test_rounds_are_warmed_up_interleaved_and_apart_from_those_of_memory():
    stage = _Sleepless()
    found = measure(stage, 2, torch.device("cpu"))
    warm, timed, remembered = ["ours", "plain"], ["ours", "plain", "plain", "ours"], ["ours", "plain"] * MEMORY_ROUNDS
    assert [call for call in stage.calls if call != "prepare"] == [*warm, *timed, *remembered]
    assert stage.calls[::2] == ["prepare"] * (len(stage.calls) // 2)
    assert found.equality == {"difference": 0.0} and found.ratio.low <= found.ratio.median <= found.ratio.high
    if found.plain_memory_mb is not None:
        assert 60 < found.plain_memory_mb < 80 and found.ours_memory_mb < 5


def test_a_round_times_repeats_and_counts_one(monkeypatch):
    stage = _Sleepless()
    stage.repeats = 3
    clock = iter(range(1000))
    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: float(next(clock)))
    found = measure(stage, 1, torch.device("cpu"))
    assert [call for call in stage.calls[4:] if call != "prepare"][:6] == ["ours"] * 3 + ["plain"] * 3
    assert found.ours_seconds.median == found.plain_seconds.median == 1.0


def test_reports_hold_what_was_measured():
    spread = Spread.of([3.0, 1.0, 2.0])
    found = Measurement("sft", "a step", 3, spread, spread, Spread(2.0, 4.5, 5.0), 2.5, {"loss_error": 1e-7}, 2.0, 9.0)
    line = table([found]).splitlines()[1]
    assert "4.5x" in line and "2.0..5.0" in line and "2/9 (4.5x)" in line and "loss_error 1e-07" in line
    written = json.loads(json.dumps(document({"size": "5M"}, [found], [("items", 5, found)], [0.5, 1.0])))
    assert written["stages"][0]["ratio"] == {"low": 2.0, "median": 4.5, "high": 5.0}
    assert written["scaling"][0]["axis"] == "items" and written["machine"]["load_before_and_after"] == [0.5, 1.0]


def test_catalogue_and_answers_have_the_documented_shares():
    titles = large_catalogue([f"word{i} next{i}" for i in range(50)], 500)
    assert len(set(titles)) == 500 and titles[0] == "word0 next0"
    answers = answers_to(titles, 200)
    assert len(answers) == 200 and len(set(answers)) == 90
    assert len(set(answers) & set(titles)) == pytest.approx(63, abs=2)


def test_the_command_names_its_stages(capsys):
    assert command.main(["--stages", "nonsense"]) == 2
    assert "known: " + ", ".join(STAGE_NAMES) in capsys.readouterr().err


def test_quick_scaling_is_shorter():
    assert all(len(quick.values) < len(full.values) for quick, full in zip(axes(True), axes(False), strict=True))
