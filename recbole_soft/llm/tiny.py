"""The embedded language model: a small Llama made on this machine from the catalogue's own text.

It stands in for a real language model where none can be had: on a laptop, in tests, in the demo. It learns titles
and categories from lists of titles that share a category, and which titles keep company from shuffled stretches of
training histories (`llm/tiny_pretraining.py`): a real one has read what people say about films that go together. It
never sees an interaction of validation or test, nor the task. The result is an ordinary Hugging Face folder, loaded
like any other model.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from recbole_soft.llm.tiny_pretraining import pretrain
from recbole_soft.prompts.template import PromptTemplate
from recbole_soft.resuming.checkpoints import Checkpoints

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
ONE_LABEL_SHARE, CATEGORY_SHARE = 0.7, 0.3
PAIR_SHARE, REACH = 0.95, 5


@dataclass(frozen=True)
class TinySettings:
    """Size and pretraining of the embedded model; `properties/llm/tiny.yaml` holds the chosen values."""

    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    vocabulary: int = 6000
    steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 5e-3
    company: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class CatalogText:
    """What the model may read: titles and their categories (empty strings where there are none).

    Attributes:
        company: rows of `titles` that keep company, one array per user of the training split, in order of time.
    """

    titles: Sequence[str]
    categories: Sequence[str]
    template: PromptTemplate = field(repr=False)
    company: Sequence[np.ndarray] = field(default=(), repr=False)

    def fingerprint(self, settings: TinySettings) -> str:
        parts = [tuple(self.titles), tuple(self.categories), self.template.fingerprint, asdict(settings), "v11"]
        digest = hashlib.sha256(repr(parts).encode())
        if settings.company:
            for rows in self.company:
                digest.update(np.asarray(rows, dtype=np.int64).tobytes() + b"|")
        return digest.hexdigest()[:16]


class Corpus:
    """Draws documents: a title with its category, or a list of quoted titles, either of one label or of any.

    A category follows its title at once, so that the model's state at the end of a title says what kind of thing
    it is: that state is the title's vector in grounding. For the same reason a title of its company may follow at
    once. Lists of one label teach which titles belong together, the others that lists need not be of one kind. No
    document is a prompt, and company is shuffled: like a real language model before fine-tuning, this one knows
    neither the task's form nor what comes next.
    """

    def __init__(self, text: CatalogText, seed: int, company: float = 0.0, longest_list: int = 10):
        self._text, self.random, self._longest = text, random.Random(seed), longest_list
        self._company = company if text.company else 0.0
        self._groups: dict[str, list[int]] = {}
        for row, category in enumerate(text.categories):
            for label in _labels(category):
                self._groups.setdefault(label, []).append(row)
        self._everything = list(range(len(text.titles)))

    def document(self) -> list[str]:
        """Pieces of one document."""
        titles, template = self._text.titles, self._text.template
        # Without company the draws are those of a corpus that knows none.
        if self._company and self.random.random() < self._company:
            rows = self._stretch()
            if self.random.random() < PAIR_SHARE:
                return [titles[row] for row in rows[:2]]
            return [template.separator.join(template.quoted(titles[row]) for row in rows)]
        row = self.random.randrange(len(titles))
        if self.random.random() < CATEGORY_SHARE:
            return [titles[row], self._text.categories[row]]
        labels = _labels(self._text.categories[row])
        of_one_label = labels and self.random.random() < ONE_LABEL_SHARE
        group = self._groups[self.random.choice(labels)] if of_one_label else self._everything
        listed = [titles[self.random.choice(group)] for _ in range(self.random.randint(1, self._longest))]
        return [template.separator.join(template.quoted(title) for title in [*listed, titles[row]])]

    def _stretch(self) -> list[int]:
        """Neighbours in one user's history, shuffled."""
        rows = self._text.company[self.random.randrange(len(self._text.company))]
        start = self.random.randrange(max(1, len(rows) - 1))
        stretch = rows[start:start + self.random.randint(2, REACH)].tolist()
        self.random.shuffle(stretch)
        return stretch

    def tokenizer_texts(self) -> list[str]:
        """Texts that the tokenizer is trained on: every title and category, and the words of the prompts."""
        quoted = [self._text.template.quoted(title) for title in self._text.titles]
        prompts = [self._text.template.prompt(self._text.titles[:2])] * max(50, len(quoted) // 20)
        return [*self._text.titles, *quoted, *self._text.categories, *prompts]


def build_tiny(
    text: CatalogText, settings: TinySettings, folder: Path, progress: Callable[[int], None] | None = None,
    saves: Checkpoints | None = None, superwords: bool = True,
) -> dict[str, float]:
    """Makes tokenizer and model and saves both into `folder`.

    Args:
        saves: where an interrupted pretraining left its state; it goes on from there.
        superwords: whether tokens may hold spaces; without, texts are as long as a real model's.

    Returns:
        what was made: parameters, vocabulary, steps, first and last training loss.
    """
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    corpus = Corpus(text, settings.seed, settings.company)
    tokenizer = _train_tokenizer(corpus.tokenizer_texts(), settings.vocabulary, superwords)
    model = _new_model(settings, len(tokenizer))
    losses = pretrain(model, tokenizer, corpus, settings, progress, saves)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    model.save_pretrained(str(folder))
    tenth = max(1, len(losses) // 10)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "vocabulary": len(tokenizer),
        "steps": settings.steps, "first_loss": sum(losses[:tenth]) / tenth if losses else math.nan,
        "last_loss": sum(losses[-tenth:]) / tenth if losses else math.nan,
    }


def _labels(category: str) -> list[str]:
    """Labels of a category cell: a path is split at '>', a word list at spaces; the whole cell counts too."""
    parts = category.split(" > ") if " > " in category else category.split()
    return list(dict.fromkeys([category, *parts])) if category else []


def _train_tokenizer(texts: Sequence[str], vocabulary: int, superwords: bool):
    """A byte-level BPE whose merges cross spaces but no quotation marks, so that most titles are one or two tokens.

    A small model then sees items, not words: on ml-100k a prompt has 49 tokens rather than 121, and one epoch of 16,384
    windows brings the true titles of validation to 6.73 nats rather than 6.90, four to 6.07 (popularity alone: 6.72).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not superwords)
    if superwords:
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split('"', "isolated"), core.pre_tokenizer])
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def _new_model(settings: TinySettings, vocabulary: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=settings.hidden_size, intermediate_size=2 * settings.hidden_size,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    ))
