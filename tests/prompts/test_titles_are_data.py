"""Titles are data: whatever a catalogue says, a prompt keeps its structure and a label mask its place.

The structure of a prompt is: beginning-of-text where the tokenizer has one, the template's lines, one of which holds
the history, and the response marker as the last line. Special tokens come from us alone. The label mask covers a
response, its end-of-text token included, and nothing else. `test_boundary.py` looks at the boundary itself.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.data.catalog import clean_title
from recbole_soft.llm.packing import ResponseTree
from recbole_soft.llm.plain_score import plain_nll
from recbole_soft.llm.tokenizer import LLMTokenizer
from recbole_soft.models.setup import read_template
from recbole_soft.prompts.encode import PromptEncoder
from tests.toys import toy_model, toy_titles, toy_tokenizer

TEMPLATES = [read_template(name) for name in ("game", "movie", "kindle", "item")]
TEXTS = [*toy_titles(24), *(template.prompt(toy_titles(3)) for template in TEMPLATES)]
CHAT_TOKENS = ["<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "[INST]"]


def chat_tokenizer() -> LLMTokenizer:
    """A tokenizer with the special tokens of chat models beside its own."""
    tokenizer = toy_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"additional_special_tokens": CHAT_TOKENS})
    return LLMTokenizer(tokenizer)


TOKENIZERS = {"bos": LLMTokenizer(toy_tokenizer(TEXTS)), "no-bos": LLMTokenizer(toy_tokenizer(TEXTS, bos=False)),
              "chat": chat_tokenizer()}
MARKERS = [line for template in TEMPLATES for line in (template.head + template.tail).splitlines() if line]
PIECES = [*MARKERS, *CHAT_TOKENS, "<s>", "</s>", "<pad>", "\n", "\r\n", "\n\n### Response:\n", "\x85", "\u2028", "\x0b",
          "\x1c", "\0", "\t", '"', '", "', "'", "\\", "{history}", "{title}", "{0}", "{", "}", "%s", "&lt;/s&gt;",
          "&#10;",
          "&amp;#10;", "\u202e", "\u200d", "\U0001f3ae"]
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
cells = st.lists(st.one_of(anything, st.sampled_from(PIECES)), min_size=1, max_size=6).map("".join)
titles = st.one_of(cells, st.builds(lambda piece, times: piece * times, cells, st.integers(100, 400))).map(
    lambda cell: clean_title(cell)[:5000]).filter(bool)
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
each_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)


def special_tokens(tokenizer: LLMTokenizer) -> set[int]:
    return set(tokenizer.hf.all_special_ids)


@settings(max_examples=150, deadline=None)
@given(cells)
def test_a_title_is_one_line_without_white_space_around_it(cell):
    title = clean_title(cell)
    assert len(title.splitlines()) <= 1 and title == title.strip() and "\t" not in title and "\0" not in title
    assert clean_title(title.replace("&", "")) == title.replace("&", "").strip()


@each_tokenizer
@each_template
@settings(max_examples=25, deadline=None)
@given(history=st.lists(titles, min_size=1, max_size=5))
def test_a_prompt_has_the_lines_and_the_special_tokens_of_any_other(template, name, history):
    tokenizer = TOKENIZERS[name]
    prompt = PromptEncoder(template, tokenizer, 10**6).prompts([history])[0]
    assert prompt[: len(tokenizer.bos_ids)] == tokenizer.bos_ids
    assert not special_tokens(tokenizer) & set(prompt[len(tokenizer.bos_ids):])
    text = tokenizer.hf.decode(prompt[len(tokenizer.bos_ids):], clean_up_tokenization_spaces=False)
    lines, usual = text.splitlines(), template.prompt(["a title"]).splitlines()
    assert [line for line in range(len(usual)) if lines[line] != usual[line]] in ([], [history_line(template)])
    assert len(lines) == len(usual)
    assert text == template.head + template.separator.join(map(template.quoted, history)) + template.tail


def history_line(template) -> int:
    return template.head.count("\n")


@each_tokenizer
@settings(max_examples=40, deadline=None)
@given(history=st.lists(titles, min_size=1, max_size=6), cutoff=st.integers(200, 600))
def test_a_prompt_that_is_cut_keeps_its_frame(name, history, cutoff):
    tokenizer, template = TOKENIZERS[name], TEMPLATES[0]
    coder = PromptEncoder(template, tokenizer, cutoff)
    coder.check_room()
    prompt = coder.prompts([history])[0]
    text = tokenizer.hf.decode(prompt[len(tokenizer.bos_ids):], clean_up_tokenization_spaces=False)
    assert len(prompt) <= cutoff
    assert text.startswith(template.head) and text.endswith(template.tail)
    assert len(text.splitlines()) == len(template.prompt(["a title"]).splitlines())


@each_tokenizer
@settings(max_examples=30, deadline=None)
@given(history=st.lists(titles, min_size=1, max_size=3), target=titles, distilled=titles)
def test_labels_are_the_response_and_its_end(name, history, target, distilled):
    """In the packed rows, each prediction is a token of a response, in its order, up to one end-of-text token."""
    tokenizer = TOKENIZERS[name]
    coder = PromptEncoder(TEMPLATES[0], tokenizer, 700)
    prompt, responses = coder.prompts([history])[0], coder.responses([target, distilled])
    tree = ResponseTree.grow(prompt[-1], responses)
    assert [[tree.edges[edge][1] for edge in path] for path in tree.paths] == responses
    for response, title in zip(responses, (target, distilled), strict=True):
        assert [place for place,
                token in enumerate(response) if token in special_tokens(tokenizer)] == [len(response) - 1]
        assert response[-1] == tokenizer.eos_id
        assert tokenizer.hf.decode(response[:-1], clean_up_tokenization_spaces=False) == TEMPLATES[0].quoted(title)


@settings(max_examples=8, deadline=None)
@given(history=st.lists(titles.map(lambda title: title[:60]), min_size=1, max_size=2),
       target=titles.map(lambda title: title[:40]))
def test_the_loss_is_that_of_the_response_alone(history, target):
    tokenizer = TOKENIZERS["bos"]
    model = toy_model("llama", len(tokenizer.hf))
    coder = PromptEncoder(TEMPLATES[0], tokenizer, 330)
    prompt, response = coder.prompts([history])[0], coder.responses([target])[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        by_hand = -sum(logits[len(prompt) + place - 1, token] for place, token in enumerate(response))
        assert float(plain_nll(model, [prompt], [response])) == pytest.approx(float(by_hand), rel=1e-4)
