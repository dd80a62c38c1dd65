"""Runs become methods and methods a table: grouping, refusals, places, gains, tests."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_soft.reporting.comparison import Cell, MethodRow, _add_gains, compare, compare_methods
from recbole_soft.reporting.methods import Method, group_methods
from recbole_soft.reporting.records import RecordError, find_runs, read_ranks, read_records, read_run
from recbole_soft.reporting.summaries import Summary
from tests.reporting.runs import some_ranks, write_run


@pytest.fixture
def saved(tmp_path):
    """SFT and SOFT runs of two seeds, SOFT with two values of alpha, and Pop."""
    for seed in (1, 2):
        sft = some_ranks(seed)
        write_run(tmp_path / f"sft{seed}", "BIGRec_SFT", {"sft": sft}, seed)
        for alpha, good in ((1.0, 0.1), (10.0, 0.5)):
            soft = some_ranks(seed + 9, good=good)
            write_run(tmp_path / f"soft{alpha}-{seed}", "BIGRec_SOFT", {"sft": sft, "soft": soft}, seed,
                      settings={"alpha": alpha})
        write_run(tmp_path / f"pop{seed}", "Pop", {"test": some_ranks(77)}, seed, protocol={"train_sample": "full"})
    return tmp_path


def labels(comparison) -> list[str]:
    return [row.method.label for row in comparison.blocks[0].rows]


def test_runs_that_differ_in_their_seed_are_one_row_and_stages_of_other_runs_are_no_second_one(saved):
    comparison = compare(read_records([saved]))
    assert labels(comparison) == ["Pop", "BIGRec SFT", "BIGRec SOFT alpha=1.0", "BIGRec SOFT alpha=10.0"]
    assert all(row.method.seeds == [1, 2] for row in comparison.blocks[0].rows)
    assert [row.method.name for row in comparison.blocks[0].rows][1:3] == ["BIGRec_SFT", "BIGRec_SOFT"]


def test_means_spreads_and_places(saved):
    block = compare(read_records([saved])).blocks[0]
    sft, best = block.rows[1], block.rows[3]
    expected = [np.mean(np.array(some_ranks(seed)) <= 5) for seed in (1, 2)]
    cell = sft.cells["HR@5"]
    assert cell.by_seed == pytest.approx(expected) and cell.mean == pytest.approx(np.mean(expected))
    assert cell.spread == pytest.approx(np.std(expected, ddof=1)) and cell.low < cell.mean < cell.high
    assert best.cells["NDCG@5"].place == 1 and sorted(row.cells["NDCG@5"].place for row in block.rows) == [0, 0, 1, 2]
    assert block.rows[0].cells["HR@5"].spread == 0.0


def test_a_real_difference_is_significant_and_none_is_not(saved):
    block = compare(read_records([saved]), baseline="bigrec sft").blocks[0]
    assert block.baseline == "BIGRec SFT"
    pop, sft, weak, strong = block.rows
    assert sft.cells["HR@5"].test is None
    assert strong.cells["HR@5"].is_significant and strong.cells["HR@5"].test.difference > 0.3
    assert not pop.cells["HR@20"].is_significant
    assert weak.cells["HR@5"].p_holm >= weak.cells["HR@5"].test.p_value
    assert strong.cells["HR@5"].test.test == "permutation over windows"
    assert strong.cells["HR@5"].windows_needed(block.windows) < 200 < weak.cells["HR@20"].windows_needed(200, 0.001)


def test_single_runs_are_tested_by_mcnemar_and_users_by_permutation(tmp_path):
    ranks = {name: some_ranks(seed) for seed, name in enumerate(("BIGRec_SFT", "BIGRec_SDPO"))}
    for users in (None, [f"u{row // 10}" for row in range(200)]):
        for name, of_name in ranks.items():
            stage = name.split("_")[1].lower()
            write_run(tmp_path / f"{name}{bool(users)}", name, {stage: of_name}, users=users)
        found = read_records([tmp_path / f"{name}{bool(users)}" for name in ranks])
        block = compare(found).blocks[0]
        cell = block.rows[1].cells["HR@5"]
        assert cell.test.test == ("permutation over users" if users else "McNemar mid-p")
        assert block.users == (20 if users else None) and cell.spread is None and np.isnan(cell.p_seeds)


def test_methods_with_unequal_seeds_are_tested_on_the_seeds_that_both_have(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"sft{seed}", "BIGRec_SFT", {"sft": some_ranks(seed)}, seed=seed)
    write_run(tmp_path / "sdpo", "BIGRec_SDPO", {"sdpo": some_ranks(2)}, seed=2)
    block = compare(read_records([tmp_path])).blocks[0]
    sft, sdpo = sorted((row for row in block.rows), key=lambda row: row.method.label, reverse=True)
    assert (sft.method.seeds, sdpo.method.seeds) == ([1, 2, 3], [2])
    assert sdpo.cells["HR@5"].test.difference == 0.0 and sdpo.cells["HR@5"].mean != sft.cells["HR@5"].mean
    assert "tests take the seeds that a method has in common with BIGRec SFT; means take all" in block.notes
    write_run(tmp_path / "other", "BIGRec_SDPO", {"sdpo": some_ranks(2)}, seed=9)
    others = [tmp_path / name for name in ("sft1", "sft2", "sft3", "other")]
    block = compare(read_records(others)).blocks[0]
    assert block.rows[1].cells["HR@5"].test.difference != 0.0 and not any("common" in note for note in block.notes)


def test_settings_that_came_later_had_their_defaults_before(tmp_path):
    """And how many processes shared the work decides nothing."""
    changes = ({}, {"lora_dropout": 0.05, "shard_model": True, "world_size": 2}, {"lora_dropout": 0.1})
    for seed, settings in enumerate(changes):
        write_run(tmp_path / str(seed), "BIGRec_SFT", {"sft": some_ranks(seed)}, seed=seed, settings=settings)
    rows = compare(read_records([tmp_path])).blocks[0].rows
    assert sorted(row.method.seeds for row in rows) == [[0, 1], [2]]


def test_variants_stand_in_the_order_of_their_numbers(tmp_path):
    """Folders are named by hashes, so their order says nothing."""
    for place, alpha in enumerate((100.0, 1.0, 10.0, 0.1)):
        write_run(tmp_path / str(place), "BIGRec_SOFT", {"soft": some_ranks(place)}, settings={"alpha": alpha})
    rows = labels(compare(read_records([tmp_path])))
    assert rows == [f"BIGRec SOFT alpha={alpha}" for alpha in (0.1, 1.0, 10.0, 100.0)]


def test_nothing_hit_still_has_an_interval(tmp_path):
    write_run(tmp_path / "a", "Pop", {"test": [50] * 40})
    cell = compare(read_records([tmp_path])).blocks[0].rows[0].cells["HR@5"]
    assert (cell.mean, cell.low) == (0, 0) and 0.05 < cell.high < 0.1


PUBLISHED = {  # SOFT paper, Table 2: HR@5, HR@20, NDCG@5, NDCG@20 in units of 0.0001
    ("BIGRec", "game"): {"SFT": (130, 310, 78, 127), "SDPO": (150, 310, 90, 135), "SOFT_woSA": (170, 380, 107, 163),
                         "SOFT": (230, 470, 135, 200)},
    ("BIGRec", "movie"): {"SFT": (160, 200, 123, 134), "SDPO": (100, 150, 79, 94), "SOFT_woSA": (220, 250, 197, 205),
                          "SOFT": (220, 250, 192, 200)},
    ("BIGRec", "kindle"): {"SFT": (260, 320, 171, 188), "SDPO": (180, 250, 110, 130),
                           "SOFT_woSA": (260, 380, 181, 217), "SOFT": (360, 460, 231, 261)},
    ("LLaRA", "game"): {"SFT": (110, 360, 80, 152), "SDPO": (120, 360, 84, 153), "SOFT_woSA": (220, 490, 156, 228),
                        "SOFT": (230, 510, 150, 230)},
    ("LLaRA", "movie"): {"SFT": (170, 200, 135, 143), "SDPO": (170, 200, 135, 143), "SOFT_woSA": (170, 210, 136, 147),
                         "SOFT": (200, 210, 160, 163)},
    ("LLaRA", "kindle"): {"SFT": (340, 400, 214, 231), "SDPO": (330, 390, 204, 220), "SOFT_woSA": (330, 440, 214, 246),
                          "SOFT": (380, 460, 245, 269)},
}


class _Published:
    def __init__(self, model, strategy):
        self.model, self.training, self.strategy, self.label = model, "as published", strategy, strategy


def test_gains_average_to_the_number_in_the_papers_abstract():
    """37.59 %: the gain is over the better of SFT and SDPO; SOFT without its scheduler is no other strategy."""
    metrics, gains = ["HR@5", "HR@20", "NDCG@5", "NDCG@20"], []
    for (model, _), table in PUBLISHED.items():
        rows = [MethodRow(_Published(model, strategy), {
            name: Cell(value / 10_000, None, 0, 0, []) for name, value in zip(metrics, values, strict=True)})
            for strategy, values in table.items()]
        rows.append(MethodRow(_Published(model, None), {name: Cell(1.0, None, 0, 0, []) for name in metrics}))
        _add_gains(rows, metrics)
        assert rows[-1].gain is None
        gains.append(rows[3].gain)
    assert np.mean(gains) == pytest.approx(0.3759, abs=0.001)


def test_gains_are_over_rows_of_the_same_language_model_and_training(tmp_path):
    """Two sizes of pretraining in one table: each SOFT stands against the SFT beside it."""
    goods = {(1200, "SFT"): 0.1, (1200, "SOFT"): 0.2, (3600, "SFT"): 0.6, (3600, "SOFT"): 0.5}
    for (steps, strategy), good in goods.items():
        write_run(tmp_path / f"{strategy}{steps}", f"BIGRec_{strategy}", {strategy.lower(): some_ranks(3, good=good)},
                  settings={"tiny_steps": steps})
    rows = {row.method.label: row for row in compare(read_records([tmp_path])).blocks[0].rows}
    for steps in (1200, 3600):
        assert rows[f"BIGRec SOFT tiny_steps={steps}"].gain_over["HR@5"] == f"BIGRec SFT tiny_steps={steps}"


def test_gains_of_one_language_model_are_over_the_best_where_no_training_is_equal(tmp_path):
    for rate, good in ((0.1, 0.2), (0.2, 0.6)):
        write_run(tmp_path / f"sft{rate}", "BIGRec_SFT", {"sft": some_ranks(3, good=good)},
                  settings={"learning_rate": rate})
    write_run(tmp_path / "soft", "BIGRec_SOFT", {"soft": some_ranks(3, good=0.5)}, settings={"learning_rate": 0.3})
    row = compare(read_records([tmp_path])).blocks[0].rows[-1]
    assert row.gain_over["HR@5"] == "BIGRec SFT learning_rate=0.2" and row.cells["HR@5"].gain < 0


def test_a_recbole_model_has_settings_that_are_called_like_a_strategy_s(tmp_path):
    for alpha in (0.2, 0.6):
        write_run(tmp_path / str(alpha), "FOSSIL", {"test": some_ranks(int(alpha * 10))}, settings={"alpha": alpha})
    assert labels(compare(read_records([tmp_path]))) == ["FOSSIL alpha=0.2", "FOSSIL alpha=0.6"]


def test_equal_hits_of_two_seeds_are_a_coincidence_unless_their_ranks_are_equal(tmp_path):
    hits = {"SASRec": 30, "Pop": 10}
    for model, count in hits.items():
        for seed in (1, 2):
            ranks = np.full(200, 50)
            ranks[np.random.default_rng(seed if model == "SASRec" else 0).permutation(200)[:count]] = 1
            write_run(tmp_path / f"{model}{seed}", model, {"test": ranks.tolist()}, seed)
    row = compare(read_records([tmp_path]), baseline="Pop").blocks[0].rows[1]
    assert row.cells["HR@5"].spread == 0 and np.isnan(row.cells["HR@5"].p_seeds)


def test_gain_is_undefined_where_the_others_hit_nothing():
    rows = [MethodRow(_Published("BIGRec", name), {"HR@5": Cell(value, None, 0, 0, [])})
            for name, value in (("SFT", 0.0), ("SOFT", 0.2))]
    _add_gains(rows, ["HR@5"])
    assert rows[1].gain is None and rows[0].gain == -1.0 and rows[1].gain_over == {"HR@5": "SFT"}


@pytest.mark.parametrize(("change", "told"), [
    ({"protocol": {"mask_history": "none"}}, "mask_history = full and mask_history = none"),
    ({"protocol": {"test_sample": 100}}, "test_sample = full and test_sample = 100"),
    ({"data": {"test": "x"}}, "test windows differ: data.test = w and data.test = x"),
    ({"data": {"catalogue": "x"}}, "catalogues differ: data.catalogue = c and data.catalogue = x"),
    ({"data": {"valid": "x"}}, "validation windows differ"),
])
def test_other_protocols_and_data_are_refused_by_name_with_both_values(tmp_path, change, told):
    write_run(tmp_path / "a", "Pop", {"test": some_ranks(0)})
    write_run(tmp_path / "b", "SASRec", {"test": some_ranks(1)}, **change)
    with pytest.raises(RecordError) as refused:
        compare(read_records([tmp_path]))
    assert told in str(refused.value) and str(tmp_path / "a") in str(refused.value)


def test_several_data_sets_are_blocks_of_their_own(tmp_path):
    for number, dataset in enumerate(("toy", "game")):
        write_run(tmp_path / dataset, "Pop", {"test": some_ranks(number)}, dataset=dataset, data={"test": dataset})
    assert {block.dataset: labels for block in compare(read_records([tmp_path])).blocks
            if (labels := [row.method.label for row in block.rows])} == {"game": ["Pop"], "toy": ["Pop"]}


def test_two_results_of_one_method_and_seed_are_refused_unless_a_companion_tells_them_apart(tmp_path):
    write_run(tmp_path / "a", "DLLM2Rec", {"test": some_ranks(0)}, settings={"teacher": "one"})
    write_run(tmp_path / "b", "DLLM2Rec", {"test": some_ranks(1)}, settings={"teacher": "two"})
    methods = group_methods(read_records([tmp_path]))
    assert [method.label for method in methods] == ["DLLM2Rec teacher=one", "DLLM2Rec teacher=two"]
    write_run(tmp_path / "c", "DLLM2Rec", {"test": some_ranks(2)}, settings={"teacher": "two"})
    with pytest.raises(RecordError, match="different results"):
        group_methods(read_records([tmp_path]))


def test_companions_of_other_seeds_do_not_split_a_method(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / str(seed), "DLLM2Rec", {"test": some_ranks(seed)}, seed, settings={"teacher": f"of{seed}"})
    assert [method.seeds for method in group_methods(read_records([tmp_path]))] == [[1, 2]]


def test_a_baseline_that_is_not_there_is_an_error_that_names_the_nearest(saved):
    with pytest.raises(RecordError, match="did you mean BIGRec SFT"):
        compare(read_records([saved]), baseline="BIGRec SFTT")
    with pytest.raises(RecordError, match="MRR@5 is no metric"):
        compare(read_records([saved]), metrics=["MRR@5"])


def test_rows_of_one_label_keep_their_own_numbers(tmp_path):
    for name, good in (("a", 0.0), ("b", 0.6)):
        write_run(tmp_path / name, "Pop", {"test": some_ranks(1, good=good)})
    methods = [Method("Pop", (read_run(tmp_path / name).results[0],), "Pop") for name in ("a", "b")]
    one, other = compare_methods(methods, ["HR@5"], "Pop").blocks[0].rows
    assert other.cells["HR@5"].mean - one.cells["HR@5"].mean > 0.4 and other.cells["HR@5"].test.difference > 0.4


def test_a_metric_that_is_asked_for_twice_counts_once(saved):
    """Holm's correction counts tests."""
    once, twice = (compare(read_records([saved]), metrics=metrics) for metrics in (["HR@5"], ["HR@5", "HR@5"]))
    assert [row.cells["HR@5"].p_holm for row in once.blocks[0].rows] == pytest.approx(
        [row.cells["HR@5"].p_holm for row in twice.blocks[0].rows], nan_ok=True)


def test_a_kept_baseline_may_be_of_another_data_set(tmp_path):
    write_run(tmp_path / "sasrec", "SASRec", {"test": some_ranks(1)}, dataset="one")
    for dataset in ("one", "two"):
        write_run(tmp_path / dataset, "Pop", {"test": some_ranks(2)}, dataset=dataset)
    summary = Summary(group_methods(read_records([tmp_path])), baseline="SASRec")
    block, = summary.narrowed(["two"], [], "").compared().blocks
    assert block.baseline is None and block.notes == ["no tests: 'SASRec' has no run on this data set"]
    with pytest.raises(RecordError, match="no method 'SASRec'"):
        summary.narrowed(["two"], [], "SASRec")


def test_mixed_versions_are_noted(tmp_path):
    write_run(tmp_path / "a", "Pop", {"test": some_ranks(0)})
    folder = write_run(tmp_path / "b", "SASRec", {"test": some_ranks(1)})
    record = folder / "run.json"
    record.write_text(record.read_text().replace('"commit": "abc"', '"commit": "def"'))
    assert compare(read_records([tmp_path])).blocks[0].notes == ["runs of several commits of the code: abc, def"]


# ---- reading ------------------------------------------------------------------------------------
def test_runs_are_found_below_a_folder_without_companions(saved):
    write_run(saved / "artifacts" / "retrievers" / "x", "SASRec", {"test": [1, 2]})
    assert len(find_runs([saved])) == 8
    assert find_runs([saved / "pop1" / "run.json", saved / "pop1"]) == [saved / "pop1"]
    with pytest.raises(RecordError, match="no such folder"):
        find_runs([saved / "nowhere"])
    (saved / "empty").mkdir()
    with pytest.raises(RecordError, match="no finished run"):
        find_runs([saved / "empty"])


def test_trials_of_searches_are_no_results(saved):
    trial = write_run(saved / "trial", "Pop", {"test": [1, 2]})
    record = trial / "run.json"
    record.write_text(record.read_text().replace('"schema": 1,', '"schema": 1, "tested": false,'))
    assert len(read_records([saved])) == 8
    with pytest.raises(RecordError, match="ended with validation"):
        read_records([trial])


def test_what_is_read_is_what_was_written(saved):
    run = read_run(saved / "soft1.0-2")
    assert (run.model, run.dataset, run.seed) == ("BIGRec_SOFT", "toy", 2)
    assert run.result("sft").ranks.tolist() == some_ranks(2) and run.result("nothing") is None
    assert [row["loss_total"] for row in run.curves_by_stage["soft"]] == [1.25]
    assert run.results[1].run is run and run.protocol["window"] == "exact" and run.data["items"] == 100


@pytest.mark.parametrize(("damage", "told"), [
    (lambda folder: (folder / "run.json").write_text("{"), "no readable record"),
    (lambda folder: (folder / "run.json").write_text("[]"), "schema None"),
    (lambda folder: (folder / "run.json").write_text('{"schema": 99}'), "schema 99, this version reads 1"),
    (lambda folder: (folder / "run.json").write_text('{"schema": 1}'), "lacks model, dataset"),
    (lambda folder: (folder / "ranks_test.csv").unlink(), "ranks of a run cannot be read"),
    (lambda folder: (folder / "ranks_test.csv").write_text("window,rank\n0,1\n"), "speaks of 4 test windows"),
    (lambda folder: (folder / "ranks_test.csv").write_text("window,rank\n0,1\n1,1\n2,1\n3,1\n"), "its ranks give"),
    (lambda folder: (folder / "ranks_test.csv").write_text("window,rank\n0,1\n2,1\n"), "not in order"),
    (lambda folder: (folder / "ranks_test.csv").write_text("window,rank\n0,0\n"), "not in order"),
    (lambda folder: (folder / "ranks_test.csv").write_bytes(b"\xff\xfe"), "cannot be read"),
])
def test_damage_is_refused_with_the_place(tmp_path, damage, told):
    folder = write_run(tmp_path / "a", "Pop", {"test": [1, 30, 3, 40]})
    read_run(folder)
    damage(folder)
    with pytest.raises(RecordError) as refused:
        read_run(folder)
    assert told in str(refused.value) and str(folder) in str(refused.value)


def test_columns_beside_the_ranks_keep_their_kind(tmp_path):
    file = tmp_path / "ranks_test.csv"
    file.write_text("window,rank,user,target,history,popularity\n0,3,u1,i9,10,4\n1,1,u2,i8,3,0\n")
    table = read_ranks(file)
    assert table.ranks.tolist() == [3, 1] and table.columns["user"].tolist() == ["u1", "u2"]
    assert table.columns["history"].tolist() == [10, 3] and table.columns["popularity"].dtype.kind == "i"
