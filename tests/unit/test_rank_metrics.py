"""RecBole's metrics from ranks alone equal those from scores."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.evaluator import Collector, Evaluator

from recbole_soft.evaluation.ranks import RankRecorder, ranks_of
from recbole_soft.trainer.rank_metrics import places_of


class Options(dict):
    def __getitem__(self, key):
        return self.get(key)


OPTIONS = Options(metrics=["Hit", "NDCG", "MRR", "Recall", "Precision", "MAP"], topk=[1, 3, 5], eval_args={"mode": {}},
                  metric_decimal_place=8, device="cpu")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(6, 40), st.integers(0, 10_000))
def test_metrics_from_ranks_are_those_from_scores(windows, items, seed):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(windows, items, generator=random)
    targets = torch.randint(0, items, (windows,), generator=random)
    scores[0, targets[0]] = -torch.inf
    recorder = RankRecorder(Collector(OPTIONS))
    recorder.eval_batch_collect(scores, None, torch.arange(windows), targets)
    by_scores = Evaluator(OPTIONS).evaluate(recorder.get_data_struct())
    ranks = ranks_of(scores, targets)
    assert Evaluator(OPTIONS).evaluate(places_of(ranks, 5)) == by_scores
    recorder.note(ranks)
    assert recorder.last.tolist() == ranks.tolist()
