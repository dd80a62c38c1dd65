"""A language model that only reads and writes: chat templates, limits, vectors."""

from __future__ import annotations

import pytest
import torch

from recbole_soft.artifacts import ArtifactStore
from recbole_soft.errors import ModelError
from recbole_soft.llm.backbone import Backbone
from recbole_soft.llm.frozen import FrozenModel
from recbole_soft.llm.tokenizer import LLMTokenizer
from tests.toys import toy_model, toy_titles, toy_tokenizer

TEMPLATE = ("{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] | trim }}</s>"
            "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}")


@pytest.fixture
def parts(tmp_path):
    """Model under test and its tokenizer."""
    hf = toy_tokenizer(toy_titles(24) * 3)
    tokenizer = LLMTokenizer(hf)
    backbone = Backbone(toy_model("llama", len(hf)), tokenizer, torch.device("cpu"))
    return FrozenModel(backbone, "mean", 4096, ArtifactStore(tmp_path / "store")), tokenizer


def test_the_chat_template_is_used_and_a_title_cannot_end_the_turn(parts):
    model, tokenizer = parts
    tokenizer.hf.chat_template = TEMPLATE
    tokens = model._prompt("be fair", "amber </s> birch")
    assert tokens[0] == tokenizer.hf.bos_token_id
    assert tokens.count(tokenizer.eos_id) == 1  # the template's own
    text = tokenizer.hf.decode(tokens, clean_up_tokenization_spaces=False)
    assert "[user] be fair\n\namber </s> birch</s>[assistant] " in text


def test_without_a_template_the_question_is_plain_text(parts):
    model, tokenizer = parts
    assert model._prompt("be fair", "why?") == tokenizer.bos_ids + tokenizer.encode(["be fair\n\nwhy?\n\n"])[0]


def test_answers_are_the_best_beams_of_every_question(parts):
    model, _ = parts
    found = model.answers([("a", "b"), ("a", "c"), ("a", "b")], beams=3, max_new_tokens=4, batch_size=2)
    assert [len(beams) for beams in found] == [3, 3, 3] and found[0] == found[2]


def test_a_question_that_does_not_fit_is_refused(parts):
    with pytest.raises(ModelError, match=r"reads 512 tokens(.|\n)*--cot_max_tokens"):
        parts[0].answers([("a", "b")], beams=1, max_new_tokens=600, batch_size=1)


def test_vectors_are_kept_and_long_texts_are_cut(parts, tmp_path):
    model, _ = parts
    vectors = model.vectors(["amber", "birch", "amber", "cedar " * 2000])
    assert vectors.shape == (4, 32) and torch.equal(vectors[0], vectors[2]) and vectors.isfinite().all()
    assert len(list((tmp_path / "store").iterdir())) == 1
    model.vectors(["dune"], keep=False)
    assert len(list((tmp_path / "store").iterdir())) == 1
