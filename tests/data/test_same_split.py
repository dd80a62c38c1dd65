"""Whose training data may hold a run's test data, and whose may not."""

from __future__ import annotations

import pytest

from recbole_soft.data.same_split import refuse_other_split
from recbole_soft.errors import ModelError

EVAL = {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "none", "mode": {"valid": "full", "test": "full"}}
OURS = {"window": "exact", "MAX_ITEM_LIST_LENGTH": 10, "duplicate_titles": "merge", "eval_args": EVAL,
        "user_inter_num_interval": "[10,inf)", "item_inter_num_interval": "[10,inf)", "test_sample": 1000}


class Interactions:
    def interactions_fingerprint(self) -> str:
        return "abc"


def refuse(interactions: str | None = "abc", **changes) -> None:
    data = {} if interactions is None else {"interactions": interactions}
    refuse_other_split({"data": data, "protocol": {**OURS, **changes}}, OURS, Interactions(), "here", "leave it out")


@pytest.mark.parametrize("changes", [
    {}, {"test_sample": "full"}, {"eval_args": {**EVAL, "mode": {"valid": "uni100", "test": "uni100"}}},
    {"eval_args": dict(reversed(EVAL.items()))}, {"interactions": None}])
def test_samples_and_candidates_of_the_evaluation_split_nothing(changes):
    refuse(**changes)


@pytest.mark.parametrize(("changes", "cause"), [
    ({"interactions": "other"}, "other interactions"), ({"window": "prefix"}, "window = prefix, this run has exact"),
    ({"eval_args": {**EVAL, "split": {"RS": [7, 1, 2]}}}, "eval_args"),
    ({"eval_args": {**EVAL, "order": "RO"}}, "eval_args"), ({"duplicate_titles": "keep"}, "duplicate_titles"),
    ({"item_inter_num_interval": "[5,inf)"}, "item_inter_num_interval"), ({"MAX_ITEM_LIST_LENGTH": 5}, "MAX_ITEM")])
def test_another_split_is_refused(changes, cause):
    with pytest.raises(ModelError, match=r"may hold this run's test data.*\n.*here\n.*, or leave it out") as refused:
        refuse(**changes)
    assert cause in refused.value.what
