"""Pretraining of the embedded model: the sampled loss against the exact one, rows without padding, learning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbole_soft.llm.tiny import CatalogText, TinySettings, build_tiny
from recbole_soft.llm.tiny_pretraining import ROW_LENGTH, packed_rows, token_loss
from recbole_soft.models.setup import read_template
from tests.toys import toy_titles, toy_tokenizer


def case(seed: int, tokens: int = 12, vocabulary: int = 40):
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 8, generator=random, dtype=torch.float64)
    table = torch.randn(vocabulary, 8, generator=random, dtype=torch.float64)
    return hidden, table, torch.randint(0, vocabulary, (tokens,), generator=random)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_with_all_tokens_the_loss_is_the_cross_entropy(seed):
    hidden, table, targets = case(seed)
    loss = token_loss(hidden, table, targets, len(table), torch.Generator())
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ table.T, targets))


def test_a_sample_estimates_the_normaliser_without_bias():
    hidden, table, targets = case(0, tokens=1)
    random = torch.Generator().manual_seed(1)
    own = (hidden @ table.T)[0, targets[0]]
    # exp(loss) = normaliser / exp(own logit), and it is the normaliser that is unbiased.
    estimates = torch.stack([token_loss(hidden, table, targets, 10, random) for _ in range(4000)]).exp()
    exact = (torch.logsumexp(hidden @ table.T, 1) - own).exp()[0]
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / 4000 ** 0.5


def test_rows_are_full_and_begin_with_a_document():
    tokenizer = toy_tokenizer(toy_titles(20))
    rows = packed_rows(lambda: ["one title", "kind"], tokenizer)
    for _ in range(3):
        row = next(rows)
        assert len(row) == ROW_LENGTH and row[0] == tokenizer.bos_token_id and tokenizer.pad_token_id not in row


def test_the_embedded_model_learns_the_catalogue_and_is_the_same_twice(tmp_path):
    titles = toy_titles(30)
    text = CatalogText(titles, ["Even" if row % 2 else "Odd" for row in range(30)], read_template("item"))
    size = TinySettings(hidden_size=32, heads=2, vocabulary=400, steps=60)
    first = build_tiny(text, size, tmp_path / "a")
    assert first["last_loss"] < 0.7 * first["first_loss"]
    build_tiny(text, size, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_titles_of_one_company_are_near_each_other(tmp_path):
    """Six planted companies of five titles: distances of the embeddings know them; without company they do not."""
    titles, template = toy_titles(30), read_template("item")
    company = [np.arange(30)[np.arange(30) % 6 == group] for group in range(6)]
    text = CatalogText(titles, [""] * 30, template, company)

    def share_of_near(settings: TinySettings, name: str) -> float:
        """How many of the four nearest titles are of the same company."""
        build_tiny(text, settings, tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            states = torch.stack([model.model(**tokenizer(title, return_tensors="pt")).last_hidden_state[0, -1]
                                  for title in titles])
        near = torch.cdist(states, states).fill_diagonal_(torch.inf).topk(4, largest=False).indices
        return (near % 6 == torch.arange(30)[:, None] % 6).float().mean().item()

    size = TinySettings(hidden_size=32, heads=2, vocabulary=500, steps=150, learning_rate=1e-2)
    assert share_of_near(size, "without") < 0.4
    assert share_of_near(replace(size, company=0.9), "with") > 0.8


def test_a_made_model_is_another_where_what_it_reads_is_another():
    titles, template = toy_titles(4), read_template("item")
    texts = [CatalogText(titles, [""] * 4, template, [np.array(rows)]) for rows in ([0, 1, 2], [0, 2, 1])]
    assert len({text.fingerprint(TinySettings()) for text in texts}) == 1
    assert len({text.fingerprint(TinySettings(company=0.5)) for text in texts}) == 2


def test_a_title_has_the_same_tokens_alone_in_quotes_and_in_a_list(tmp_path):
    titles = ["Best of Both Worlds", "Best of Both Worlds 2", 'The "Other" Side', "Ünïcode ☂ Title", " spaced  out "]
    template = read_template("item")
    build_tiny(CatalogText(titles, ["Some Kind"] * len(titles), template),
               TinySettings(hidden_size=16, heads=2, layers=1, vocabulary=900, steps=2), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    alone = [tokenizer(title, add_special_tokens=False)["input_ids"] for title in titles]
    quote = tokenizer('"', add_special_tokens=False)["input_ids"]
    listed = tokenizer(template.separator.join(map(template.quoted, titles)), add_special_tokens=False)["input_ids"]
    separator = tokenizer(template.separator, add_special_tokens=False)["input_ids"]
    expected: list[int] = []
    for title, tokens in zip(titles, alone, strict=True):
        assert tokenizer(template.quoted(title), add_special_tokens=False)["input_ids"] == [*quote, *tokens, *quote]
        assert tokenizer.decode(tokens) == title
        expected += [*separator * bool(expected), *quote, *tokens, *quote]
    assert listed == expected and len(alone[0]) == 1
