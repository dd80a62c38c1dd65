"""Small data and models that the tests make themselves."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "island", "juniper", "knoll", "lagoon")


def toy_titles(count: int) -> list[str]:
    """Distinct two-word titles."""
    return [f"{WORDS[i % len(WORDS)]} {WORDS[(i // len(WORDS) + i + 1) % len(WORDS)]}" for i in range(count)]


def write_toy_dataset(folder: Path, users: int = 40, length: int = 16, items: int = 24, seed: int = 0,
                      name: str = "toy") -> None:
    """Atomic files with a planted rule: item i is always followed by item i + 1 (cyclically).

    Users start anywhere, so every item is equally popular and popularity knows nothing.
    """
    rng = random.Random(seed)
    rows = []
    for user in range(users):
        start, begin = rng.randrange(items), rng.randrange(1000)
        rows += [(begin + 10 * step, f"u{user}", f"i{(start + step) % items}") for step in range(length)]
    rows.sort()
    write_atomic(folder, name, [(user, item, time) for time, user, item in rows],
                 [(f"i{i}", title, WORDS[i % 3]) for i, title in enumerate(toy_titles(items))])


def write_atomic(folder: Path, name: str, interactions: list[tuple], items: list[tuple] | None) -> None:
    """NAME.inter from (user, item, timestamp) and NAME.item from (item, title, category)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in interactions]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if items is not None:
        lines = ["item_id:token\ttitle:token\tcategory:token"] + ["\t".join(row) for row in items]
        (folder / f"{name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


def toy_tokenizer(texts: list[str], vocabulary: int = 400, bos: bool = True):
    """A byte-level BPE tokenizer, with or without a beginning-of-text token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>" if bos else None, eos_token="</s>",
                                   pad_token="<pad>")


def sentencepiece_like_tokenizer(texts: list[str]):
    """A tokenizer in the style of Llama 2: a marker before every word, one also at the start of any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    core.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted({chr(code) for code in range(32, 127)})))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def toy_model(family: str, vocabulary: int, seed: int = 0):
    """A random two-layer causal language model of a family, float32, in evaluation mode."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if family == "gpt2":
        config = hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=512, **common)
        return hf.GPT2LMHeadModel(config).eval()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2, "max_position_embeddings": 512}
    config_class, model_class = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM), "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM),
    }[family]
    return model_class(config_class(**sizes, **common)).eval()
