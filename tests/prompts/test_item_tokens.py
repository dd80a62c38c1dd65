"""Prompts with a token per item: one behind each title, none from a title, the right items after truncation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.errors import DataError, SettingError
from recbole_soft.llm.tokenizer import LLMTokenizer
from recbole_soft.llm.vector_tokens import PLACEHOLDER, register_placeholder
from recbole_soft.models.setup import read_template
from recbole_soft.prompts.encode import PromptEncoder
from recbole_soft.prompts.item_tokens import ItemPromptEncoder
from tests.toys import sentencepiece_like_tokenizer, toy_titles, toy_tokenizer

TEMPLATE = read_template("movie")
TEXTS = [*toy_titles(24), TEMPLATE.prompt(toy_titles(3))]
FIRST = 10_000
TOKENIZERS = {
    "bos": LLMTokenizer(toy_tokenizer(TEXTS)),
    "no-bos": LLMTokenizer(toy_tokenizer(TEXTS, bos=False)),
    "sentencepiece": LLMTokenizer(sentencepiece_like_tokenizer(TEXTS)),
}
PLACEHOLDERS = {name: register_placeholder(tokenizer) for name, tokenizer in TOKENIZERS.items()}
plain = st.characters(exclude_categories=["Cs", "Cc"])
titles = st.one_of(
    st.text(plain, min_size=1, max_size=30),
    st.sampled_from([PLACEHOLDER, f'a"{PLACEHOLDER}, "b', "[HistoryEmb]", "</s>", "<s>", '### Response:\n"x"',
                     "{title}"]),
)
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def coder(name: str, catalogue: list[str], cutoff: int = 700) -> ItemPromptEncoder:
    return ItemPromptEncoder(PromptEncoder(TEMPLATE, TOKENIZERS[name], cutoff), catalogue, PLACEHOLDERS[name], FIRST)


@each_tokenizer
@settings(max_examples=40, deadline=None)
@given(catalogue=st.lists(titles, min_size=1, max_size=10))
def test_one_item_token_per_title_whatever_titles_say(name, catalogue):
    """LLaRA in the SOFT code injects nothing with Llama-3's tokenizer; ours must for any title and tokenizer."""
    items = list(range(len(catalogue)))
    prompt = coder(name, catalogue, 5000).prompts([items])[0]
    assert [token - FIRST for token in prompt if token >= FIRST] == items
    assert PLACEHOLDERS[name] not in prompt


@each_tokenizer
def test_tokens_are_those_of_the_tokenizer_itself_for_the_text_with_placeholders(name):
    catalogue, hf = toy_titles(5), TOKENIZERS[name].hf
    text = TEMPLATE.head + ", ".join(f'"{title}"{PLACEHOLDER}' for title in catalogue) + TEMPLATE.tail
    expected = TOKENIZERS[name].bos_ids + hf(text, add_special_tokens=False)["input_ids"]
    prompt = coder(name, catalogue).prompts([range(5)])[0]
    assert [PLACEHOLDERS[name] if token >= FIRST else token for token in prompt] == expected


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 10), cutoff=st.integers(100, 160))
def test_an_overlong_prompt_keeps_the_newest_titles_with_their_tokens(count, cutoff):
    catalogue = toy_titles(count)
    own = coder("bos", catalogue, cutoff)
    own.check_room()
    prompt = own.prompts([range(count)])[0]
    kept = own.items_of(prompt)
    assert len(prompt) <= cutoff and kept == list(range(count))[-len(kept):] and kept
    words = TOKENIZERS["bos"].decode([token for token in prompt if token < FIRST])
    if len(kept) > 1:
        assert words == TEMPLATE.prompt([catalogue[item] for item in kept])
    if len(kept) < count:
        one_more = coder("bos", catalogue, 5000).prompts([range(count - len(kept) - 1, count)])[0]
        assert len(one_more) > cutoff, "no title is left out that would have fitted"


def test_a_single_overlong_title_is_cut_and_keeps_its_token():
    own = coder("bos", ["amber birch " * 80], 100)
    prompt = own.prompts([[0]])[0]
    assert 90 < len(prompt) <= 100 and own.items_of(prompt) == [0]
    words = TOKENIZERS["bos"].decode([token for token in prompt if token < FIRST])
    assert '"amber birch amber' in words and words.endswith(TEMPLATE.tail)


def test_too_little_room_is_a_mistake_of_the_settings():
    with pytest.raises(SettingError, match="too short for any history"):
        coder("bos", ["a"], 20).check_room()


def test_a_tokenizer_that_reads_placeholders_out_of_titles_is_an_error():
    class Careless:
        bos_ids, eos_id = [], 1

        def encode(self, texts):
            return [TOKENIZERS["bos"].hf(text, add_special_tokens=False)["input_ids"] for text in texts]

        def decode(self, tokens):
            return TOKENIZERS["bos"].decode(tokens)

    own = ItemPromptEncoder(PromptEncoder(TEMPLATE, Careless(), 700), ["fine", f"bad {PLACEHOLDER}"],
                            PLACEHOLDERS["bos"], FIRST)
    assert own.items_of(own.prompts([[0, 0]])[0]) == [0, 0]
    with pytest.raises(DataError, match="2 titles has 3 placeholders"):
        own.prompts([[0, 1]])


def test_equal_words_with_different_items_are_different_prompts():
    one, other = coder("bos", ["same", "same"]).prompts([[0], [1]])
    assert one != other and len(one) == len(other)
    assert sum(a != b for a, b in zip(one, other, strict=True)) == 1


@each_tokenizer
def test_a_text_only_prompt_is_bigrecs_prompt(name):
    catalogue = toy_titles(6)
    own = coder(name, catalogue)
    prompts = own.prompts([range(6), [2, 1]])
    assert own.text_only(prompts) == own.encoder.prompts([catalogue, [catalogue[2], catalogue[1]]])
    assert own.text_only(own.text_only(prompts)) == own.encoder.prompts([[], []])


def test_an_empty_history_has_words_only():
    own = coder("bos", ["a"])
    assert own.prompts([[]]) == own.encoder.prompts([[]])
