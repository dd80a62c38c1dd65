"""Guidance only: untrained language models, demonstrations in the prompt, and reranking of a retriever's best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recbole_soft import plugin
from recbole_soft.errors import ModelError, SettingError
from recbole_soft.models.rerank import Rerank, Retriever
from recbole_soft.run import run_recbole_soft

DEMOS = ("self", "fixed", "nearest", "aggregated", "effect")
SMALL_EFFECT = {"demo_candidates": 3, "demo_copies": 1}


def run(model, settings):
    return run_recbole_soft(model, "toy", config_dict=settings)


def ranks_of(result) -> str:
    record = Path(result["record_path"])
    return (record.parent / result["record"]["results"][-1]["ranks_file"]).read_text()


# ---- zero-shot ---------------------------------------------------------------------------------------
def test_zero_shot_is_the_base_model_however_it_would_be_tuned(toy_settings):
    results = [run("BIGRec_ZeroShot", toy_settings(tuning=tuning)) for tuning in ("full", "lora")]
    assert ranks_of(results[0]) == ranks_of(results[1])
    for result in results:
        record, folder = result["record"], Path(result["record_path"]).parent
        assert record["curves"] == [] and not list(folder.rglob("*.safetensors")), "nothing was trained"
        assert record["stages"]["zero_shot"]["valid_result"]["hit@10"] >= 0 and result["best_valid_score"] >= 0
        assert "BIGRec zero-shot" in result["table"] and (folder / "ranks_zero_shot.csv").is_file()


def test_zero_shot_is_where_training_starts(toy_settings):
    """A vanishing learning rate leaves the base model, and so its answers."""
    untrained = run("BIGRec_ZeroShot", toy_settings())
    hardly_trained = run("BIGRec_SFT", toy_settings(epochs=1, learning_rate=1e-30))
    assert ranks_of(untrained) == ranks_of(hardly_trained)


def test_injection_works_without_training(toy_settings):
    injection = run("BIGRec_ZeroShot", toy_settings(injection="popularity"))["record"]["results"][0]["injection"]
    assert injection["chosen"].endswith("on validation")


# ---- demonstrations ----------------------------------------------------------------------------------
def test_no_demonstrations_is_zero_shot(toy_settings):
    assert ranks_of(run("BIGRec_ICL", toy_settings(demos="none"))) == ranks_of(run("BIGRec_ZeroShot", toy_settings()))


@pytest.mark.parametrize("demos", DEMOS)
def test_demonstrations_run_and_repeat(toy_settings, tmp_path, demos):
    settings = toy_settings(demos=demos, valid_sample=4, test_sample=8, **SMALL_EFFECT)
    first, second = (run("BIGRec_ICL", {**settings, "run_name": name}) for name in "ab")
    assert ranks_of(first) == ranks_of(second)
    shown = first["record"]["notes"]["demonstrations"]
    # Windows that hold a known answer are no candidates for `effect`, so a window may run out of them.
    fewest = 12 if demos == "effect" else 16
    assert shown["asked"] == 16 and shown["windows_without"] == 0 and shown["shown"] >= fewest
    assert f"BIGRec ICL {demos}" in first["table"]


def test_what_has_no_room_is_left_out_and_counted(toy_settings, caplog):
    counts = run("BIGRec_ICL", toy_settings(cutoff_len=240, state="INFO"))["record"]["notes"]["demonstrations"]
    assert 0 <= counts["shown"] < counts["asked"] == 48
    assert f"{counts['shown']} of 48 shown" in caplog.text


def test_effect_reads_mean_token_losses_of_the_frozen_model(world):
    """Equal to a plain loop, whatever weights are switched on."""
    from contextlib import contextmanager
    from types import SimpleNamespace

    from recbole_soft.demos.effect import Case
    from recbole_soft.demos.pool import Demonstration
    from recbole_soft.strategies.icl import FrozenLosses

    @contextmanager
    def progress(_title, _total):
        yield lambda _count: None

    model, _ = world(tuning="full")
    titles = model.catalog.titles
    shown = (Demonstration((titles[5], titles[6]), titles[7], 0.0, 0),)
    cases = [Case((titles[1], titles[2]), titles[3]), Case((titles[1],), titles[2], shown),
             Case((titles[9],), titles[4])]
    expected = []
    for case in cases:
        examples = [[(one.history, one.answer) for one in case.shown]]
        prompt = model.encoder.demonstrated_prompts([case.history], examples)[0][0]
        total, tokens = likelihood(model, prompt, case.answer)
        expected.append(-total / tokens)
    model.weights.create("tuned", 0)
    for parameter in model.weights.model.parameters():
        parameter.data.add_(0.3)
    found = FrozenLosses(SimpleNamespace(model=model, progress=progress))([*cases, cases[0]])
    assert found == pytest.approx([*expected, expected[0]], rel=1e-4) and len(set(found)) == 3


# ---- reranking ---------------------------------------------------------------------------------------
@pytest.fixture
def world(toy_settings):
    """(model with a retriever of random scores, interaction of all test windows); arguments are settings."""
    from recbole.data import data_preparation
    from recbole.utils import get_model

    from recbole_soft.config.soft_config import SoftConfig
    from recbole_soft.data.dataset import SoftDataset

    plugin.install()

    def make(**changes):
        config = SoftConfig("Rerank_ZeroShot", "toy", config_dict=toy_settings(**changes))
        train, _, test = data_preparation(config, SoftDataset(config))
        model = get_model("Rerank_ZeroShot")(config, train.dataset)
        assert isinstance(model, Rerank)

        def scores(interaction):
            """Coarse scores, so that there are ties; of the window alone, as a real model's."""
            return torch.stack([torch.randint(0, 12, (model.n_items,), generator=torch.Generator().manual_seed(
                int(row.sum()))).float() for row in interaction[model.ITEM_SEQ]])

        model.retriever = Retriever("Random", "nowhere", "0", scores)
        return model, test.dataset.inter_feat

    return make


@torch.no_grad()
def likelihood(model, prompt, title) -> tuple[float, int]:
    """log p(title and end of text | prompt) by one plain forward, and its number of tokens."""
    response = model.encoder.responses([title])[0]
    logits = model.language_model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(response)), len(response)


def items_best_first(scores: torch.Tensor) -> list[int]:
    return sorted(range(1, len(scores)), key=lambda item: (-float(scores[item]), item))


@pytest.mark.parametrize(("rule", "kind"), [("full", "sum"), ("window", "mean"), ("none", "sum")])
def test_reranking_equals_scoring_every_candidate_alone(world, rule, kind):
    model, interaction = world(rerank_candidates=4, rerank_score=kind, mask_history=rule, test_sample=6)
    model.prepare(interaction)
    found = model.full_sort_predict(interaction)
    proposals, covered = model.retriever.scores(interaction), 0
    for row, prompt in enumerate(model.prompts(interaction)):
        seen = {"none": [], "window": interaction["item_id_list"][row].tolist(),
                "full": model.items_before(interaction["window_id"][row: row + 1].numpy())[0].tolist()}[rule]
        order = items_best_first(proposals[row])
        candidates = [item for item in order if item not in seen][:4]
        value = {}
        for item in candidates:
            total, tokens = likelihood(model, prompt, model.catalog.titles[item])
            value[item] = total / tokens if kind == "mean" else total
        reranked = iter(sorted(candidates, key=lambda item: -value[item]))
        expected = [next(reranked) if item in candidates else item for item in order]
        assert items_best_first(found[row]) == expected
        covered += int(interaction["item_id"][row]) in candidates
    assert (found[:, 0] == -torch.inf).all() and found.dtype == torch.float32
    notes = model.notes_on(interaction)
    assert notes["rerank"]["covered_windows"] == covered and notes["rerank"]["coverage"] == covered / 6
    assert f"coverage@4 {covered / 6:.4f}" in notes["caption"]


def test_the_target_is_never_looked_at(world):
    model, interaction = world(rerank_candidates=5)
    before = model.full_sort_predict(interaction)
    interaction["item_id"] = interaction["item_id"].flip(0)
    model.forget_answers()
    assert torch.equal(before, model.full_sort_predict(interaction))


def test_one_candidate_is_the_retriever_and_all_are_the_language_model(world):
    model, interaction = world(rerank_candidates=1)
    for row, scores in enumerate(model.retriever.scores(interaction)):
        assert items_best_first(model.full_sort_predict(interaction)[row]) == items_best_first(scores)
    model, interaction = world(rerank_candidates=10**6, mask_history="none", test_sample=2)
    for row, prompt in enumerate(model.prompts(interaction)):
        value = {item: likelihood(model, prompt, model.catalog.titles[item])[0] for item in range(1, model.n_items)}
        assert items_best_first(model.full_sort_predict(interaction)[row]) == sorted(value, key=lambda i: -value[i])


def test_what_decides_a_trained_reranker_is_in_its_key(world):
    model, _ = world(rerank_candidates=3)
    assert model.deciding() == {"retriever": "0", "rerank_candidates": 3, "rerank_score": "sum"}


def test_a_loss_over_titles_alone_is_refused(world):
    with pytest.raises(SettingError, match="compares likelihoods over all tokens"):
        world(lm_loss="msl", decoding="constrained")


@pytest.mark.parametrize("setting", [{"injection": "popularity"}, {"ranking": "beams"}])
def test_settings_without_effect_are_refused(world, setting):
    with pytest.raises(SettingError, match="has no effect on Rerank"):
        world(**setting)


def test_without_a_retriever_it_says_who_brings_one(world):
    model, interaction = world()
    model.retriever = None
    with pytest.raises(ModelError, match="no retriever"):
        model.full_sort_predict(interaction)


# ---- whole jobs --------------------------------------------------------------------------------------
def test_retriever_is_trained_once_and_its_coverage_is_in_record_and_table(toy_settings):
    settings = toy_settings(retriever="Pop", rerank_candidates=3)
    first = run("Rerank_ZeroShot", settings)
    note = first["record"]["notes"]["rerank"]
    folder = Path(note["retriever_folder"])
    written = (folder / "run.json").stat().st_mtime_ns
    again = run("Rerank_ZeroShot", {**settings, "run_name": "again"})
    assert (folder / "run.json").stat().st_mtime_ns == written and ranks_of(first) == ranks_of(again)
    assert note["coverage"] == note["covered_windows"] / 24
    assert f"coverage@3 {note['coverage']:.4f}" in first["table"]
    theirs = json.loads((folder / "run.json").read_text())
    # Nobody meets an item twice in this data: the target is a candidate where the retriever hits it.
    assert note["coverage"] == pytest.approx(sum(
        int(line.split(",")[1]) <= 3 for line in (folder / "ranks_test.csv").read_text().splitlines()[1:]) / 24)
    assert theirs["data"]["test"] == first["record"]["data"]["test"]
    # Below the candidates nothing moves: the same windows are hit within any cut-off of 3 and more.
    ours = first["record"]["results"][0]["metrics"]
    for cutoff in ("HR@5", "HR@10", "HR@20"):
        assert ours[cutoff]["value"] == theirs["results"][0]["metrics"][cutoff]["value"]


def test_a_trained_adapter_reranks(toy_settings):
    sft = run("BIGRec_SFT", toy_settings(tuning="lora", epochs=1))
    adapter = sft["record"]["stages"]["sft"]["folder"]
    result = run("Rerank_SFT", toy_settings(tuning="lora", retriever="Pop", sft_adapter=adapter))
    assert result["record"]["stages"]["sft"]["reused"] and "Rerank SFT" in result["table"]
    assert result["best_valid_score"] == result["best_valid_result"]["hit@10"], "given weights are validated"


def test_a_retriever_of_other_windows_is_refused(toy_settings, tmp_path):
    """It may have been trained on the windows that this run is tested on."""
    pop = run("Pop", toy_settings(epochs=1, train_sample="full", eval_args={
        "split": {"RS": [7, 2, 1]}, "group_by": "none", "order": "TO", "mode": "full"}))
    with pytest.raises(ModelError, match="may have been trained on ours"):
        run("Rerank_ZeroShot", toy_settings(retriever=str(Path(pop["record_path"]).parent)))
    with pytest.raises(ModelError, match="no record of a finished run"):
        run("Rerank_ZeroShot", toy_settings(retriever=str(tmp_path)))


def test_pop_keeps_its_counts(toy_settings):
    """They are no weights: a Pop without them could not be opened, and would know the sampled windows only."""
    from safetensors.torch import load_file

    pop = run("Pop", toy_settings(epochs=1, train_sample="full"))
    folder = Path(pop["record_path"]).parent
    counts = load_file(folder / "model.safetensors")["other_parameter.item_cnt"]
    assert counts.sum() > 64, "more than the sample that the language model sees"
    result = run("Rerank_ZeroShot", toy_settings(retriever=str(folder), rerank_candidates=1))
    assert result["record"]["results"][0]["metrics"] == pop["record"]["results"][0]["metrics"]


@pytest.mark.parametrize("name", ["no/where", "SASrec"])
def test_an_unknown_retriever_is_one_message(refused, name):
    refused("neither a run folder nor a RecBole model", model="Rerank_ZeroShot", retriever=name)
