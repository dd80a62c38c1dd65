"""What all stages work on: a small Llama that ends its answers, windows of ml-100k, and a large catalogue.

The model has random weights but for a short training on answers, so that generation stops where a tuned
model's would. It is made once and kept in the artefact store. Knows nothing of what is measured.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recbole_soft import plugin
from recbole_soft.artifacts import ArtifactStore
from recbole_soft.data.catalog import Catalog
from recbole_soft.llm.backbone import LoadSettings, load_backbone
from recbole_soft.llm.score import score_responses
from recbole_soft.llm.tiny import CatalogText, TinySettings, build_tiny
from recbole_soft.losses import mean_token_nll
from recbole_soft.models.setup import DEFAULT_PROMPT, artifact_store, read_template
from recbole_soft.prompts.encode import PromptEncoder

Tokens = list[int]
ADAPTER = "benchmark"
# Few, so that they are learnt in seconds: a small model tuned on ml-100k gave 943 users 12 different answers.
TAUGHT_ANSWERS = 24
TAUGHT_HISTORIES = (1, 1, 2, 10)
SEED = 0


@dataclass(frozen=True)
class Size:
    """Width and depth of the Llama, its vocabulary, and how many steps teach it to end its answers."""

    hidden_size: int
    layers: int
    vocabulary: int = 8192
    teaching_steps: int = 100
    teaching_rate: float = 3e-3


SIZES = {"1M": Size(96, 2), "5M": Size(256, 4), "20M": Size(512, 5, teaching_steps=60, teaching_rate=1e-3)}


@dataclass(frozen=True)
class Windows:
    """Windows in tokens: prompts, true responses, other responses (catalogue titles), and target item ids."""

    prompts: list[Tokens]
    targets: list[Tokens]
    others: list[list[Tokens]]
    items: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, first: int, count: int) -> Windows:
        """`count` windows from `first` on."""
        end = first + count
        return Windows(self.prompts[first:end], self.targets[first:end],
                       [kind[first:end] for kind in self.others], self.items[first:end])


@dataclass(frozen=True)
class Workbench:
    """A recommender with a LoRA adapter, and windows of its three splits.

    Attributes:
        model: our `BIGRec` over the small Llama; adapter `benchmark` is on and has weights unequal to 0.
        train, valid, test: windows in the random order of the splits' samples.
        device: where the model is.
        first_state: the adapter's first weights.
    """

    model: object
    train: Windows
    valid: Windows
    test: Windows
    device: torch.device
    first_state: dict[str, Tensor]

    @property
    def micro_batch(self) -> int:
        """Windows per forward pass, our way."""
        return self.model.options["micro_batch_size"]

    @property
    def catalog(self) -> Catalog:
        return self.model.catalog

    def restore(self) -> None:
        """Puts the adapter back to where it began."""
        self.model.weights.load_state(ADAPTER, self.first_state)


def open_workbench(size: Size, device: str, folder: Path, dtype: str = "float32") -> Workbench:
    """Makes or finds the model, reads ml-100k through our own data layer, and puts both together."""
    plugin.install()
    from recbole_soft.config.soft_config import SoftConfig
    from recbole_soft.data.dataset import SoftDataset
    from recbole_soft.models.bigrec import BIGRec

    config = SoftConfig("BIGRec_SOFT", "ml-100k", config_dict={
        "checkpoint_dir": str(folder), "llm": "default", "lora_dropout": 0.0, "state": "WARNING",
        "show_progress": False, "dtype": dtype,
    })
    config["device"] = torch.device(device)
    dataset = SoftDataset(config)
    splits = dataset.build()
    config["llm_path"] = str(_taught_model(config, dataset, size, artifact_store(config)))
    model = BIGRec(config, dataset)
    _fresh_adapter(model.weights)
    train, valid, test = (_windows(model, split) for split in splits)
    return Workbench(model, train, valid, test, torch.device(device), model.weights.state(ADAPTER))


def _fresh_adapter(weights) -> None:
    """Small random values in both factors: a new LoRA is 0 and has gradients in one factor alone."""
    weights.create(ADAPTER, seed=SEED)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in weights.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.01
            parameter.add_(noise.to(parameter))


def _windows(model, split, others: int = 3) -> Windows:
    texts = model.texts_of(split)
    titles, draw = model.catalog.unique_titles, random.Random(SEED)
    drawn = [model.encoder.responses([draw.choice(titles) for _ in range(len(texts))]) for _ in range(others)]
    items = split.inter_feat[model.ITEM_ID].to(torch.long)
    return Windows(texts.prompts, texts.targets, drawn, items)


def _taught_model(config, dataset, size: Size, store: ArtifactStore) -> Path:
    """Folder of the small Llama, made when it is not in the store."""
    template = read_template(config["prompt"] or DEFAULT_PROMPT)
    text = CatalogText(dataset.catalog.titles[1:], dataset.catalog.categories[1:], template)
    settings = TinySettings(hidden_size=size.hidden_size, layers=size.layers, vocabulary=size.vocabulary, steps=0)

    def make(folder: Path) -> dict[str, float]:
        build_tiny(text, settings, folder, superwords=False)
        backbone = load_backbone(LoadSettings(str(folder), config["device"], dtype="float32"))
        backbone.model.resize_token_embeddings(size.vocabulary, mean_resizing=False)
        eos, encode = backbone.tokenizer.eos_id, backbone.tokenizer.encode
        answers = [tokens + [eos] for tokens in encode([template.quoted(title) for title in text.titles])]
        answers = [tokens for tokens in answers if 7 <= len(tokens) <= 14][:TAUGHT_ANSWERS]
        draw = random.Random(SEED)
        histories = [draw.choices(text.titles, k=draw.choice(TAUGHT_HISTORIES)) for _ in range(1024)]
        prompts = PromptEncoder(template, backbone.tokenizer).prompts(histories)
        loss = _teach(backbone.model, prompts, answers, size)
        backbone.model.save_pretrained(str(folder))
        return {"last_loss": loss}

    folder, _ = store.obtain("benchmark-llm", f"{text.fingerprint(settings)}-{size.teaching_steps}-4", make)
    return folder


def _teach(
    model: torch.nn.Module, prompts: Sequence[Tokens], answers: Sequence[Tokens], size: Size, batch: int = 16
) -> float:
    """Trains all weights on random answers to random prompts; returns the last loss."""
    torch.manual_seed(SEED)
    draw = random.Random(SEED)
    model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=size.teaching_rate)
    loss = torch.tensor(torch.nan)
    for step in range(size.teaching_steps):
        optimiser.param_groups[0]["lr"] = size.teaching_rate * min(1.0, (step + 1) / 10)
        scores = score_responses(model, draw.sample(prompts, batch), {"answer": draw.choices(answers, k=batch)})
        loss = mean_token_nll(scores["answer"].nll, int(scores["answer"].tokens.sum()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return float(loss.detach())


def large_catalogue(titles: Sequence[str], count: int) -> list[str]:
    """`count` distinct titles: the given ones, then new ones put together from their words."""
    words = sorted({word for title in titles for word in title.split()})
    lengths = [len(title.split()) for title in titles]
    draw, found = random.Random(SEED), dict.fromkeys(titles)
    while len(found) < count:
        found.setdefault(" ".join(draw.choices(words, k=draw.choice(lengths))))
    return list(found)[:count]


def answers_to(titles: Sequence[str], windows: int) -> list[str]:
    """Answers as a tuned model gives them: 45 % of them distinct, 7 of 10 distinct ones catalogue titles.

    Both shares are those measured on ml-100k (449 distinct of 1,000; 70 % of all beams are titles). The others
    have the length of titles.
    """
    draw = random.Random(SEED + 1)
    distinct = max(1, round(0.45 * windows))
    known = draw.sample(list(titles), max(1, round(0.7 * distinct)))
    catalogue, pool = set(titles), dict.fromkeys(known)
    while len(pool) < distinct:
        mixed = _mixed(draw.choice(titles), draw.choice(titles))
        if mixed not in catalogue:
            pool.setdefault(mixed)
    pool = list(pool)
    answers = pool + [draw.choice(pool) for _ in range(windows - len(pool))]
    draw.shuffle(answers)
    return answers


def _mixed(first: str, second: str) -> str:
    """The first half of one title and the second half of another."""
    first_words, second_words = first.split(), second.split()
    return " ".join(first_words[: (len(first_words) + 1) // 2] + second_words[len(second_words) // 2:])
