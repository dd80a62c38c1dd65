"""Every setting of ours: name, kind, default, range and one line of help, written once.

RecBole's own settings keep RecBole's names and defaults and are not repeated here. A strategy, model or
schedule may declare further settings in its own file (`settings = (Setting(...), ...)`); the registry
reads them from the source. Imports nothing heavy: `--help` answers from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COUNT_OR_FULL = "count|full"
# Settings that decide no result: folders, messages, how unfinished work is kept, and how many share the work.
NOT_RESULTS = ("run_name", "checkpoint_dir", "artifacts_dir", "show_progress", "state", "data_path", "resume",
               "checkpoint_seconds", "run_folder", "settings_key", "examples", "world_size", "shard_model")


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: the key, in YAML and on the command line alike.
        kind: `int`, `float`, `str`, `bool`, `path`, `list` (of words), `list[int]`, `dict`, or `count|full`
            (a positive int or `full`).
        default: the value when nobody sets it; None means "not set".
        help: one line for `--help`.
        section: heading under which `--help` shows it.
        choices: the only values allowed, if any; for a list, the only entries allowed.
        low, high: inclusive range for numbers (for a list, of its entries), if any.
        above: exclusive lower bound for numbers, if any.
        ignore_case: whether `choices` may be written in any case, as RecBole allows.
    """

    name: str
    kind: str
    default: Any
    help: str
    section: str = "Strategy"
    choices: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    ignore_case: bool = False


def _section(section: str, *rows: Setting) -> tuple[Setting, ...]:
    return tuple(Setting(**{**row.__dict__, "section": section}) for row in rows)


PROTOCOL = _section(
    "Protocol",
    Setting("protocol", "str", "paper", "preset of the protocol", choices=("paper", "released_code")),
    Setting("train_sample", COUNT_OR_FULL, 4096, "training windows for LLM methods (traditional models use all)"),
    Setting("valid_sample", COUNT_OR_FULL, 512, "validation windows, the same for every method"),
    Setting("test_sample", COUNT_OR_FULL, 1000, "test windows, the same for every method"),
    Setting("sample_seed", "int", 42, "seed of the samples of windows", low=0, high=2**32 - 1),
    Setting("window", "str", "exact", "10 + 1 interactions, or every prefix", choices=("exact", "prefix")),
    Setting("duplicate_titles", "str", "merge", "items of equal title become one item, or stay apart",
            choices=("merge", "keep")),
    Setting("mask_history", "str", "full", "items that are no candidates: all seen before, the window, none",
            choices=("full", "window", "none")),
    Setting("title_field", "str", "title", "column of NAME.item that holds the title"),
    Setting("category_field", "str", "category", "column of NAME.item that holds the category (optional)"),
)

LANGUAGE_MODEL = _section(
    "Language model",
    Setting("llm", "str", None, "preset of properties/llm (tiny when no llm_path is given)"),
    Setting("llm_path", "path", None, "Hugging Face id or folder of a causal language model"),
    Setting("llm_revision", "str", None, "revision of a Hugging Face id"),
    Setting("trust_remote_code", "bool", False, "run code that comes with the checkpoint"),
    Setting("dtype", "str", "auto", "weights: auto = bfloat16 on a GPU that has it, else float32",
            choices=("auto", "float32", "bfloat16", "float16")),
    Setting("quantization", "str", "none", "bitsandbytes weights", choices=("none", "8bit", "4bit")),
    Setting("attn_implementation", "str", "sdpa", "attention kernel", choices=("sdpa", "eager")),
    Setting("pad_token", "str", "auto", "auto = the tokenizer's own or end-of-text; new = add <pad>",
            choices=("auto", "new")),
    Setting("tuning", "str", "lora", "train an adapter or all weights", choices=("lora", "full")),
    Setting("lora_r", "int", 8, "LoRA rank", low=1),
    Setting("lora_alpha", "float", 16, "LoRA scale", low=0),
    Setting("lora_dropout", "float", 0.05, "LoRA dropout", low=0, high=1),
    Setting("lora_target_modules", "list", None, "LoRA targets (default: the query and value projections)"),
    Setting("gradient_checkpointing", "bool", False, "recompute activations to save memory"),
    Setting("prompt", "str", None, "template of properties/prompt (default: the data set's)"),
    Setting("cutoff_len", "int", 700, "longest prompt in tokens; the oldest titles are dropped first", low=16),
)

TRAINING = _section(
    "Training of LLM methods",
    Setting("micro_batch_size", "int", 16, "windows per forward; gradients add up to train_batch_size", low=1),
    Setting("warmup_steps", "int", 20, "linear warm-up steps, constant afterwards", low=0),
    Setting("patience", "int", 2, "epochs in a row without a better validation score that end a stage", low=1),
    Setting("lm_loss", "str", "full", "softmax of SFT and SOFT: over all tokens, or those that continue a title (MSL)",
            choices=("full", "msl")),
    Setting("msl_temperature", "float", None, "temperature of MSL's softmax (default: adapted in training)", above=0),
    Setting("msl_eta", "float", 0.25, "share of the softmax that MSL's adaptive temperature aims at", above=0, high=1),
    Setting("fast_path", "bool", True, "shared-prompt training and beam search (False: the plain formulation)"),
    Setting("sft_adapter", "path", None, "existing SFT adapter: skips the SFT stage"),
)

GENERATION = _section(
    "Generation and grounding",
    Setting("num_beams", "int", 4, "beams", low=1),
    Setting("max_new_tokens", "int", 64, "longest answer in tokens; never more than the longest title needs", low=1),
    Setting("length_penalty", "float", None, "exponent of length in a beam's score (default: 1, constrained: 0)",
            low=-10, high=10),
    Setting("decoding", "str", "free", "any text, or catalogue titles only", choices=("free", "constrained")),
    Setting("ranking", "str", "grounding", "all items by distance, or the beams first and the rest by distance",
            choices=("grounding", "beams")),
    Setting("generation_batch_size", "int", 64, "prompts generated at once", low=1),
    Setting("embed_pooling", "str", "last", "text vector: last token's hidden state, or the mean over tokens",
            choices=("last", "mean")),
    Setting("embed_batch_tokens", "int", None,
            "padded tokens embedded at once (default: 1024 on a CPU, else 16384)", low=1),
    Setting("injection", "str", "none", "BIGRec's injection into the distances",
            choices=("none", "popularity", "cf")),
    Setting("injection_gamma", "float", None, "exponent of the injection (default: chosen on validation)", low=0),
    Setting("injection_model_file", "path", None, "run folder of a RecBole model that injection=cf takes scores from"),
)

RUN = _section(
    "Run",
    Setting("run_name", "str", None, "folder of this run under checkpoint_dir (default: made from the settings)"),
    Setting("resume", "bool", None, "go on where an interrupted run of these settings was ended (default: asks on a "
            "terminal, else starts anew)"),
    Setting("checkpoint_seconds", "float", 60, "how often unfinished work is saved; 0: after every batch", low=0),
    Setting("world_size", "int", None, "processes that the run must have; torchrun or accelerate launch starts them",
            low=1),
    Setting("shard_model", "bool", False, "each process keeps a piece of every layer of the frozen language model "
            "(as FSDP and ZeRO 3 do), in place of the whole"),
    Setting("examples", "int", 50, "test windows shown in examples_STAGE.jsonl: prompt, answer, nearest titles", low=0),
    Setting("artifacts_dir", "path", None, "where reusable results are kept (default: checkpoint_dir/artifacts)"),
)

EMBEDDED = _section(
    "Embedded language model (llm=tiny)",
    Setting("tiny_hidden_size", "int", None, "width", low=8),
    Setting("tiny_layers", "int", None, "layers", low=1),
    Setting("tiny_heads", "int", None, "attention heads", low=1),
    Setting("tiny_vocabulary", "int", None, "size of its byte-pair vocabulary", low=300),
    Setting("tiny_steps", "int", None, "pretraining steps", low=0),
    Setting("tiny_batch_size", "int", None, "documents per pretraining step", low=1),
    Setting("tiny_learning_rate", "float", None, "highest pretraining learning rate", low=0),
    Setting("tiny_company", "float", None, "share of its texts that say which titles training users met one after "
            "the other (0: it knows titles and categories alone)", low=0, high=1),
    Setting("tiny_seed", "int", None, "seed of its weights and documents", low=0, high=2**32 - 1),
)

SETTINGS: tuple[Setting, ...] = PROTOCOL + LANGUAGE_MODEL + TRAINING + GENERATION + EMBEDDED + RUN
