"""Answers to the test are kept by content: a run that shares a stage does not generate them again."""

from __future__ import annotations

import pytest

from recbole_soft import run_recbole_soft
from recbole_soft.models.bigrec import BIGRec


@pytest.fixture
def searched(monkeypatch) -> list[int]:
    """How many prompts each search had."""
    counts: list[int] = []
    search = BIGRec.search

    def counting(self, prompts, progress=None):
        counts.append(len(prompts))
        return search(self, prompts, progress)

    monkeypatch.setattr(BIGRec, "search", counting)
    return counts


def test_a_shared_stage_is_tested_with_the_answers_that_are_there(toy_settings, tmp_path, searched):
    settings = toy_settings(artifacts_dir=str(tmp_path / "artifacts"), epochs=1)
    alone = run_recbole_soft(model="BIGRec_SFT", dataset="toy", config_dict=settings)["record"]
    searched.clear()
    shared = run_recbole_soft(model="BIGRec_SOFT", dataset="toy", config_dict=settings)["record"]
    assert not alone["stages"]["sft"]["answers_reused"]
    assert shared["stages"]["sft"]["answers_reused"] and not shared["stages"]["soft"]["answers_reused"]
    assert shared["results"][0]["metrics"] == alone["results"][0]["metrics"]
    assert shared["results"][0]["answers"] == alone["results"][0]["answers"]
    once = len(searched)
    searched.clear()
    fresh = toy_settings(artifacts_dir=str(tmp_path / "others"), epochs=1)
    again = run_recbole_soft(model="BIGRec_SOFT", dataset="toy", config_dict=fresh)["record"]
    assert again["results"] == shared["results"]
    assert len(searched) > once


@pytest.mark.parametrize("change", [{"num_beams": 3}, {"length_penalty": 0.5}, {"max_new_tokens": 6}])
def test_another_search_has_answers_of_its_own(toy_settings, tmp_path, change):
    settings = toy_settings(artifacts_dir=str(tmp_path / "artifacts"), epochs=1)
    run_recbole_soft(model="BIGRec_ZeroShot", dataset="toy", config_dict=settings)
    again = run_recbole_soft(model="BIGRec_ZeroShot", dataset="toy", config_dict=settings | change)["record"]
    assert not any(stage["answers_reused"] for stage in again["stages"].values())
