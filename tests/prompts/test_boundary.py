"""The prompt/response boundary: for any title and any tokenizer, the response is the title and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.errors import SettingError
from recbole_soft.llm.tokenizer import LLMTokenizer
from recbole_soft.models.setup import read_template
from recbole_soft.prompts.encode import PromptEncoder
from recbole_soft.prompts.template import PromptTemplate
from tests.toys import sentencepiece_like_tokenizer, toy_titles, toy_tokenizer

TEMPLATE = read_template("movie")
TEXTS = [*toy_titles(24), TEMPLATE.prompt(toy_titles(3)), '"amber birch", "cedar"']
TOKENIZERS = {
    "bos": LLMTokenizer(toy_tokenizer(TEXTS)),
    "no-bos": LLMTokenizer(toy_tokenizer(TEXTS, bos=False)),
    "sentencepiece": LLMTokenizer(sentencepiece_like_tokenizer(TEXTS)),
}
plain = st.characters(exclude_categories=["Cs", "Cc"])
titles = st.one_of(
    st.text(plain, min_size=1, max_size=30),
    st.sampled_from(['### Response:\n"x"', "</s>", "<s> a", '"', '""', 'say "hi"', "{title}", "{history}",
                     "a\u200db", "עברית", "🎮"]),
)
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def encoder(name: str, cutoff: int = 700) -> PromptEncoder:
    return PromptEncoder(TEMPLATE, TOKENIZERS[name], cutoff)


@each_tokenizer
@settings(max_examples=60, deadline=None)
@given(history=st.lists(titles, min_size=1, max_size=10), target=titles)
def test_nothing_in_a_title_adds_special_tokens_or_moves_the_boundary(name, history, target):
    coder, tokenizer = encoder(name, 5000), TOKENIZERS[name]
    prompt, response = coder.prompts([history])[0], coder.responses([target])[0]
    special = set(tokenizer.hf.all_special_ids) - {tokenizer.hf.unk_token_id}
    assert prompt[: len(tokenizer.bos_ids)] == tokenizer.bos_ids
    assert not special & set(prompt[len(tokenizer.bos_ids):])
    assert response[-1] == tokenizer.eos_id and not special & set(response[:-1])
    assert prompt == coder.prompts([history])[0], "the same prompt in training and generation"


@each_tokenizer
@settings(max_examples=60, deadline=None)
@given(title=titles.map(str.strip).filter(bool).filter(lambda t: " ".join(t.split()) == t))
def test_an_answer_that_spells_a_response_reads_back_as_its_title(name, title):
    coder = encoder(name)
    unk = TOKENIZERS[name].hf.unk_token_id
    tokens = coder.responses([title])[0]
    if unk is None or unk not in tokens:
        assert coder.answer(tokens) == title


@each_tokenizer
@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 10), cutoff=st.integers(60, 400))
def test_truncation_drops_the_oldest_titles_and_keeps_frame_and_response(name, count, cutoff):
    coder = encoder(name, cutoff)
    history = toy_titles(count)
    shortest = len(encoder(name, 10_000).prompts([history[-1:]])[0])
    prompt = coder.prompts([history])[0]
    assert len(prompt) <= cutoff
    if cutoff >= shortest:
        text = TOKENIZERS[name].decode(prompt)
        kept = [title for title in history if f'"{title}"' in text]
        assert kept and kept == history[-len(kept):]
        assert text.strip().endswith("### Response:")


@each_tokenizer
def test_one_overlong_title_is_cut_and_the_frame_kept(name):
    coder = encoder(name, 300)
    prompt = coder.prompts([["x" * 5000]])[0]
    assert len(prompt) <= 300 and TOKENIZERS[name].decode(prompt).strip().endswith("### Response:")


def test_a_cutoff_without_room_for_a_title_is_refused_with_a_number_that_works():
    with pytest.raises(SettingError, match="cutoff_len=16 is too short") as caught:
        encoder("bos", 16).check_room()
    assert "--cutoff_len=" in str(caught.value)


@pytest.mark.parametrize(("answer", "title"), [
    ('"Toy Story"', "Toy Story"), (' "Toy Story" ', "Toy Story"), ("Toy Story", "Toy Story"),
    ('"Toy Story', "Toy Story"), ('""Quoted" not"', '"Quoted" not'), ("", ""), ('"', ""),
])
def test_unquoted(answer, title):
    assert TEMPLATE.unquoted(answer) == title


def test_every_shipped_template_is_whole():
    from recbole_soft.config.yaml_files import properties_root

    names = [path.stem for path in (properties_root() / "prompt").glob("*.yaml")]
    assert {"game", "movie", "kindle", "item"} <= set(names)
    for name in names:
        text = read_template(name).prompt(["A", "B"])
        assert '"A", "B"' in text and text.endswith("### Response:\n") and "{" not in text


def test_a_broken_template_says_what_it_lacks():
    with pytest.raises(SettingError, match="lacks 'instruction'"):
        PromptTemplate.from_mapping("x", {"layout": "{history}", "input": ""})
    with pytest.raises(SettingError, match="history} once"):
        PromptTemplate.from_mapping("x", {"layout": "no slot", "input": "", "instruction": ""})
    with pytest.raises(SettingError, match="no prompt template 'moive'") as caught:
        read_template("moive")
    assert "did you mean movie" in str(caught.value)
