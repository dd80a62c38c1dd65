"""Prompts with demonstrations: same form as the question, within the cut-off, titles as data."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.config.yaml_files import properties_root
from recbole_soft.models.setup import read_template
from recbole_soft.prompts.template import PromptTemplate
from tests.prompts.test_boundary import TEMPLATE, TOKENIZERS, each_tokenizer, encoder, titles
from tests.toys import toy_titles

examples = st.lists(st.tuples(st.lists(titles, min_size=1, max_size=3), titles), max_size=3)


def test_task_is_said_once_and_every_example_has_the_form_of_the_question():
    text = TEMPLATE.prompt(["C", "D"], [(["A"], "B"), (["E", "F"], "G")])
    asked = TEMPLATE.prompt(["C", "D"])
    assert text.startswith(TEMPLATE.lead) and text.count(TEMPLATE.lead) == 1
    assert text.endswith(asked[len(TEMPLATE.lead):])
    assert text.count("### Instruction:") == 1 and text.count("### Input:") == text.count("### Response:") == 3
    assert text.index('"A"') < text.index('### Response:\n"B"\n\n### Input:') < text.index('### Response:\n"G"\n\n')


@pytest.mark.parametrize("path", sorted((properties_root() / "prompt").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_template_can_show_demonstrations(path):
    template = read_template(path.stem)
    assert template.lead and template.prompt(["A"], []) == template.prompt(["A"])


def test_a_layout_that_names_the_task_last_repeats_itself_whole():
    template = PromptTemplate.from_mapping("x", {"layout": "{input} {history} {instruction}", "input": "Seen:",
                                                 "instruction": "Next?"})
    assert template.lead == ""
    assert template.prompt(["C"], [(["A"], "B")]) == 'Seen: "A" Next?\n"B"\n\nSeen: "C" Next?\n'


@each_tokenizer
@settings(max_examples=30, deadline=None)
@given(history=st.lists(titles, min_size=1, max_size=3), shown=examples)
def test_no_title_of_a_demonstration_adds_special_tokens_or_is_formatted(name, history, shown):
    coder, tokenizer = encoder(name, 5000), TOKENIZERS[name]
    (prompt,), (kept,) = coder.demonstrated_prompts([history], [shown])
    special = set(tokenizer.hf.all_special_ids) - {tokenizer.hf.unk_token_id}
    assert kept == len(shown) and not special & set(prompt[len(tokenizer.bos_ids):])
    text = TEMPLATE.prompt(history, shown)
    for title in [*history, *(answer for _, answer in shown)]:
        assert f'"{title}"' in text


@each_tokenizer
@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 4), length=st.integers(1, 6), cutoff=st.integers(60, 600))
def test_first_demonstrations_give_way_then_the_oldest_titles(name, count, length, cutoff):
    coder, history = encoder(name, cutoff), toy_titles(24)[:length]
    shown = [(toy_titles(24)[8 + number: 12 + number], toy_titles(24)[20 - number]) for number in range(count)]
    (prompt,), (kept,) = coder.demonstrated_prompts([history], [shown])
    assert len(prompt) <= cutoff and 0 <= kept <= count
    roomy = encoder(name, 10_000)
    if kept:
        assert prompt == roomy.demonstrated_prompts([history], [shown[count - kept:]])[0][0]
    else:
        assert prompt == coder.prompts([history])[0]
    if kept < count:
        assert len(roomy.demonstrated_prompts([history], [shown[count - kept - 1:]])[0][0]) > cutoff
