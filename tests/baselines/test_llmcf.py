"""LLM-CF: retrieval, the pool, the reader, chains of thought, runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import recbole  # noqa: F401  (before our data set class, which is registered with it)
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.errors import DataError, SettingError
from recbole_soft.models.example_pool import make_pool
from recbole_soft.models.llmcf import InContextReader
from recbole_soft.models.thoughts import quality, read_thoughts, requests_of, write_thoughts
from recbole_soft.rank_losses.incontext import earlier_neighbours, reconstruction_loss, sampled_softmax
from recbole_soft.run import run_recbole_soft
from tests.baselines.test_dro import build

TINY = {"tiny_hidden_size": 32, "tiny_layers": 2, "tiny_heads": 2, "tiny_vocabulary": 400, "tiny_steps": 20,
        "tiny_batch_size": 8, "icl_pool_share": 0.3}


# ---- pure functions ------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_neighbours_equal_a_loop_and_lie_before_the_query(seed, count):
    generator = torch.Generator().manual_seed(seed)
    queries, pool = torch.randn(4, 3, generator=generator), torch.randn(6, 3, generator=generator)
    query_times, pool_times = (torch.randint(0, 8, (n,), generator=generator) for n in (4, 6))
    rows, exists = earlier_neighbours(queries, query_times, pool, pool_times, count)
    assert rows.shape == exists.shape == (4, count)
    for query in range(4):
        earlier = [row for row in range(6) if pool_times[row] < query_times[query]]
        expected = sorted(earlier, key=lambda row: -float(queries[query] @ pool[row]))[:count]
        assert rows[query][exists[query]].tolist() == expected and int(exists[query].sum()) == len(expected)


def test_a_pool_smaller_than_asked_for_is_no_error():
    rows, exists = earlier_neighbours(torch.ones(1, 2), torch.tensor([5]), torch.ones(1, 2), torch.tensor([1]), 3)
    assert rows.tolist() == [[0, 0, 0]] and exists.tolist() == [[True, False, False]]


def test_reconstruction_equals_a_loop_and_leaves_missing_texts_out():
    predicted, texts = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    exists = torch.tensor([[True, False], [True, True], [False, False]])
    values = []
    for row, place in exists.nonzero().tolist():
        a, b = predicted[row, place].tolist(), texts[row, place].tolist()
        values.append(1 - sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b))
    assert reconstruction_loss(predicted, texts, exists).item() == pytest.approx(sum(values) / 3, rel=1e-5)
    assert reconstruction_loss(predicted, texts, torch.zeros_like(exists)).item() == 0


def test_sampled_softmax_equals_a_loop_with_accidental_hits_left_out():
    scores, targets, negatives = torch.randn(3, 7), torch.tensor([1, 4, 6]), torch.tensor([4, 2, 2])
    found = sampled_softmax(scores, targets, negatives)
    for row, target in enumerate(targets.tolist()):
        y = scores[row].tolist()
        others = [y[item] for item in negatives.tolist() if item != target]
        expected = math.log(math.exp(y[target]) + sum(map(math.exp, others))) - y[target]
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


# ---- the reader ----------------------------------------------------------------------------------
def reader_inputs(width=8, texts=5, examples=4):
    torch.manual_seed(0)
    reader = InContextReader(width, texts, examples, 2, 2, 0.5).eval()
    return reader, [torch.randn(3, examples, width), torch.randn(3, examples, texts), torch.tensor([1, 0, 1, 0]),
                    torch.ones(3, examples, dtype=torch.bool), torch.randn(3, width)]


def test_the_query_reads_examples_but_no_missing_ones():
    reader, (decisions, thoughts, labels, exists, query) = reader_inputs()
    plain, _ = reader(decisions, thoughts, labels, exists, query)
    changed = decisions.clone()
    changed[:, 1] = torch.randn(3, 8)
    assert not torch.allclose(plain, reader(changed, thoughts, labels, exists, query)[0])
    exists[:, 1] = False
    hidden = [reader(each, thoughts, labels, exists, query)[0] for each in (decisions, changed)]
    assert torch.allclose(*hidden, atol=1e-6) and not torch.allclose(hidden[0], plain)
    with torch.no_grad():  # torch has another implementation for this
        assert torch.allclose(hidden[0], reader(decisions, thoughts, labels, exists, query)[0], atol=1e-5)
    none = reader(decisions, thoughts, labels, torch.zeros_like(exists), query)[0]
    assert none.isfinite().all()


def test_a_thought_is_predicted_before_it_is_read():
    """Position 3 k predicts text k, so it must not see it; later positions do."""
    reader, (decisions, thoughts, labels, exists, query) = reader_inputs()
    plain = reader(decisions, thoughts, labels, exists, query)[1]
    changed = thoughts.clone()
    changed[:, 1] = torch.randn(3, 5)
    after = reader(decisions, changed, labels, exists, query)[1]
    assert torch.allclose(plain[:, :2], after[:, :2], atol=1e-6) and not torch.allclose(plain[:, 2:], after[:, 2:])


# ---- pool and model ------------------------------------------------------------------------------
def test_the_pool_is_of_training_windows_and_refused_items_are_unknown(toy_settings):
    _, _, train = build("LLMCF", toy_settings, **TINY, train_sample="full")
    pool, again = make_pool(train, 0.5, 7), make_pool(train, 0.5, 7)
    assert len(pool) == round(0.5 * len(train)) and torch.equal(pool.items, again.items)
    assert set(pool.windows.tolist()) <= set(train.inter_feat["window_id"].tolist())
    for window, (chosen, refused), known in zip(pool.windows.tolist(), pool.items.tolist(),
                                                train.items_before(pool.windows.numpy()), strict=True):
        assert refused not in known and refused not in (0, chosen)
        row = int((train.inter_feat["window_id"] == window).nonzero()[0])
        assert train.inter_feat["item_id"][row] == chosen


def test_examples_are_earlier_than_the_window_and_never_itself(toy_settings):
    """Published: a window may retrieve its own row with its label, and other users' future."""
    model, _, train = build("LLMCF", toy_settings, **{**TINY, "icl_pool_share": 1.0}, train_sample="full")
    frame = train.inter_feat
    texts = model._history_texts(frame["item_id_list"], frame["item_length"])
    rows, exists = earlier_neighbours(texts, frame["timestamp"], model.pool_texts, model.pool_times, 2)
    assert (model.pool_times[rows][exists] < frame["timestamp"][:, None].expand_as(rows)[exists]).all()
    first = frame["timestamp"].argmin()
    assert not exists[first].any() and exists.sum() > len(frame)


def test_weights_of_other_examples_are_refused(toy_settings):
    """Scores depend on the examples: another sample of training windows would change them without a word."""
    model, _, _ = build("LLMCF", toy_settings, **TINY, train_sample=60)
    other, _, _ = build("LLMCF", toy_settings, **TINY, train_sample=64)
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="other examples"):
        other.load_state_dict(model.state_dict())


def test_with_weight_zero_it_is_sasrec(toy_settings):
    model, batch, _ = build("LLMCF", toy_settings, **TINY, ict_weight=0.0)
    plain, _, _ = build("DROS", toy_settings, dros_alpha=0.0, dros_base_loss="CE")
    own = plain.state_dict().keys()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in own})
    model.eval(), plain.eval()
    assert torch.equal(model.full_sort_predict(batch), plain.full_sort_predict(batch))
    assert model.calculate_loss(batch).item() == pytest.approx(plain.calculate_loss(batch).item(), rel=1e-6)


def test_the_target_does_not_reach_the_scores_and_the_examples_do(toy_settings):
    model, _, train = build("LLMCF", toy_settings, **TINY, train_sample="full")
    model.eval()
    batch = train.inter_feat[torch.arange(len(train) - 6, len(train))]
    scores = model.full_sort_predict(batch)
    other = train.inter_feat[torch.arange(len(train) - 6, len(train))]
    other.interaction["item_id"] = 1 + other["item_id"] % 24
    assert torch.equal(scores, model.full_sort_predict(other))
    model.pool_items = 1 + model.pool_items % 24
    assert not torch.allclose(scores, model.full_sort_predict(batch))


def test_gradients_reach_every_part(toy_settings):
    model, _, train = build("LLMCF", toy_settings, **TINY, train_sample="full", llmcf_loss="SSM")
    model.calculate_loss(train.inter_feat[torch.arange(len(train))]).backward()
    without = {name for name, parameter in model.named_parameters()
               if parameter.grad is None or not parameter.grad.abs().sum() > 0}
    assert {name for name in without if "to_text" not in name} == set()


@pytest.mark.parametrize(("change", "expected"), [
    ({"icl_num": 3}, "icl_num = 3 must be even"), ({"ict_heads": 5}, "ict_heads = 5 must divide"),
    ({"cot": "path"}, "needs cot_path"), ({"cot": "path", "cot_path": "nowhere.jsonl"}, "no such file"),
    ({"cot_path": "x"}, "cot_path = .*x has no effect"), ({"llm": "llama3.2-3b"}, "presets are for LLM methods"),
])
def test_mistakes_are_answered(change, expected, toy_settings):
    with pytest.raises(SettingError, match=expected):
        build("LLMCF", toy_settings, **{**TINY, **change})


# ---- chains of thought ---------------------------------------------------------------------------
class Writer:
    """Stands in for a language model; counts what it is asked."""

    fingerprint = "writer"

    def __init__(self, fails_after: int | None = None) -> None:
        self.asked, self.fails_after = 0, fails_after

    def answers(self, questions, beams, max_new_tokens, batch_size, progress=None):
        if self.fails_after is not None and self.asked >= self.fails_after:
            raise KeyboardInterrupt
        self.asked += len(questions)
        return [["short", "they like such things very much", "like like like like like"][:beams] for _ in questions]

    def vectors(self, texts, keep=True):
        return torch.ones(len(texts), 3)


def pool_and_requests(toy_settings, share=1.0):
    from recbole_soft.config.soft_config import SoftConfig
    from recbole_soft.data.dataset import SoftDataset

    config = SoftConfig("LLMCF", "toy", config_dict=toy_settings(train_sample="full"))
    train = SoftDataset(config).build()[0]
    return requests_of(make_pool(train, share, 0), train.catalog.titles), train


def test_requests_state_what_is_known_and_hold_no_other_target(toy_settings):
    requests, train = pool_and_requests(toy_settings)
    assert len(requests) == 2 * len(train)
    window = int(train.inter_feat["window_id"][0])
    chosen = train.catalog.titles[int(train.inter_feat["item_id"][0])]
    yes, no = requests[window, True], requests[window, False]
    assert f"Offered now: {chosen}\nThe person chose it." in yes.question
    assert "did not choose" in no.question and f"Offered now: {chosen}\n" not in no.question


def test_an_interrupted_writer_goes_on_where_it_stopped(toy_settings, tmp_path):
    requests, _ = pool_and_requests(toy_settings)
    settings = {"beams": 3, "max_new_tokens": 8, "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        write_thoughts(Writer(fails_after=64), requests, tmp_path, "data", **settings)
    path = next(tmp_path.glob("thoughts-*.jsonl"))
    with open(path, "a") as file:
        file.write('{"window_id": 3, "cho')  # what a crash leaves
    second = Writer()
    assert write_thoughts(second, requests, tmp_path, "data", **settings) == path
    assert second.asked == len(requests) - 64
    texts = read_thoughts(path, "data")
    assert set(texts) == set(requests) and set(texts.values()) == {"they like such things very much"}
    third = Writer()
    write_thoughts(third, requests, tmp_path, "data", **settings)
    assert third.asked == 0
    with pytest.raises(DataError, match="belong to other data"):
        read_thoughts(path, "other")
    path.write_text('{"data": "data"}\n{"window": 3}\n')
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*line 2"):
        read_thoughts(path, "data")


def test_quality_prefers_new_words_and_closeness():
    assert quality("tiny", 1, 1, 1) == 0.0
    assert quality("they like such things", 0.5, 0.5, 0.5) == pytest.approx((1 + 1.5) / 4)
    assert quality("like like like like", 0.5, 0.5, 0.5) < quality("they like such things", 0.5, 0.5, 0.5)


def test_written_texts_are_kept_and_finding_them_changes_nothing(toy_settings, tmp_path):
    settings = toy_settings(**{**TINY, "icl_pool_share": 0.05}, cot="generate", cot_max_tokens=6, cot_beams=2,
                            reconstruction_weight=1.0, epochs=1, artifacts_dir=str(tmp_path / "a"))
    losses, contents = [], []
    for name in ("first", "again"):
        result = run_recbole_soft("LLMCF", "toy", config_dict={**settings, "run_name": name})
        losses.append(result["record"]["curves"][0]["loss_total"])
        contents.append([path.read_bytes() for path in (tmp_path / "a").glob("thoughts-*.jsonl")])
    notes = result["record"]["notes"]["examples"]
    assert 2 * notes["windows"] == len(contents[0][0].splitlines()) - 1 >= notes["thoughts"]  # some may be empty
    assert "LLMCF" in result["table"] and np.isfinite(losses[0])
    assert losses[0] == losses[1] and contents[0] == contents[1] and len(contents[0]) == 1


def test_given_texts_are_embedded_and_missing_ones_left_out(toy_settings, tmp_path):
    few = {**TINY, "icl_pool_share": 0.3}
    plain, _, train = build("LLMCF", toy_settings, **few, train_sample="full")
    windows = make_pool(train, 0.3, 42).windows.tolist()
    lines = [{"data": train.sequences_fingerprint()}]
    lines += [{"window_id": window, "chosen": True, "text": f"text {window}"} for window in windows[:-1]]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, _, _ = build("LLMCF", toy_settings, **few, train_sample="full", cot="path", reconstruction_weight=2.0,
                        cot_path=str(tmp_path / "mine.jsonl"))
    assert model.has_thought[:-1, 0].all() and not model.has_thought[:, 1].any() and not model.has_thought[-1].any()
    assert model.thoughts[model.has_thought].norm(dim=1).tolist() == pytest.approx([1.0] * (len(windows) - 1), rel=1e-5)
    assert (model.thoughts[~model.has_thought] == 0).all() and not plain.has_thought.any()
    model.eval()
    batch = train.inter_feat[torch.arange(40)]
    with_texts = model.calculate_loss(batch)
    model.reconstruction_weight = 0.0
    assert 0 < (with_texts - model.calculate_loss(batch)).item() < 4  # 2 (1 - cosine)


def test_it_learns_the_planted_rule(toy_settings):
    result = run_recbole_soft("LLMCF", "toy", config_dict=toy_settings(
        **TINY, epochs=6, train_sample="full", learning_rate=0.01, mask_history="none"))
    record = result["record"]
    assert record["results"][0]["metrics"]["HR@5"]["value"] > 0.45  # chance is 5 of 24
    assert (Path(result["record_path"]).parent / "model.safetensors").is_file()
