"""Weights and records that are missing, cut short, of another model or of other data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors.torch import save

from tests.bad_inputs.case import Case, Change, cut, swap
from tests.toys import toy_model

LLM, WEIGHTS, ADAPTER, POP = "llm", "llm/model.safetensors", "saved/sft/sft", "saved/pop"
PICKLE_THAT_DELETES = b"\x80\x04cos\nremove\nX\x11\x00\x00\x00raw/ratings.csv\x85R."


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    """A change of a JSON file: these keys get these values."""
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def safetensors(header: Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header; `length` is what it says the header's length is."""
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape: list[int], end: int) -> dict[str, Any]:
    """A header that promises one tensor."""
    return {"model.norm.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


def weights_of_a_vocabulary(size: int) -> bytes:
    """A safetensors file of a random model with so many tokens."""
    return save(toy_model("llama", size).state_dict(), metadata={"format": "pt"})


def language_model(name: str, files: Mapping[str, Change], cause: str, remedy: str, place: str = LLM) -> Case:
    """A case of a language model in a folder."""
    return Case(name, {"llm_path": LLM}, files={f"{LLM}/{file}": change for file, change in files.items()}, cause=cause,
                place=f"llm_path={place}" if place == LLM else place, remedy=remedy)


CUT_SHORT = "no file is cut short"
SAVE = "save_pretrained"
LANGUAGE_MODELS = (
    Case("a folder that is not there", {"llm_path": "/no/where"}, cause="there is no such folder",
         place="--llm_path=/no/where", remedy="meta-llama/Llama-3.2-3B"),
    Case("a folder three levels deep that is not there", {"llm_path": "a/b/c"}, cause="there is no such folder",
         place="llm_path=a/b/c", remedy="give a folder with config.json"),
    Case("a file for a folder", {"llm_path": "./llm/config.json"}, cause="there is no such folder", place="config.json",
         remedy="give a folder with config.json"),
    language_model("no tokenizer", {"tokenizer.json": None, "tokenizer_config.json": None}, "no tokenizer", SAVE),
    language_model("no weights", {"model.safetensors": None}, "no weights", SAVE),
    language_model("no configuration", {"config.json": None}, "no config.json", SAVE),
    language_model("half a configuration", {"config.json": cut(20)}, "not a valid JSON file", CUT_SHORT),
    language_model("half a tokenizer", {"tokenizer.json": cut(50)}, "cannot be loaded", CUT_SHORT),
    language_model("5 bytes of weights", {"model.safetensors": cut(5)}, "cannot be loaded", CUT_SHORT),
    language_model("half of the weights", {"model.safetensors": cut(20_000)}, "cannot be loaded", CUT_SHORT),
    language_model("no bytes of weights", {"model.safetensors": b""}, "cannot be loaded", CUT_SHORT),
    language_model("weights whose header would fill the memory",
                   {"model.safetensors": safetensors({}, length=2**62)}, "cannot be loaded", CUT_SHORT),
    language_model("weights that promise an exabyte",
                   {"model.safetensors": safetensors(tensor([2**29, 2**29], 2**60))}, "cannot be loaded", CUT_SHORT),
    language_model("weights whose size overflows",
                   {"model.safetensors": safetensors(tensor([2**40, 2**40], 64), b"\0" * 64)}, "cannot be loaded",
                   CUT_SHORT),
    language_model("weights as a pickle", {"model.safetensors": None, "pytorch_model.bin": PICKLE_THAT_DELETES},
                   "as a pickle only, which can run code", "convert it once"),
    language_model("a pickle that calls itself safetensors", {"model.safetensors": PICKLE_THAT_DELETES},
                   "cannot be loaded",
                   CUT_SHORT),
    language_model("an index that leaves the folder",
                   {"model.safetensors": None, "model.safetensors.index.json": json.dumps(
                       {"metadata": {}, "weight_map": {"model.norm.weight": "../saved/pop/model.safetensors"}})},
                   "leaves its folder", "do not use this checkpoint"),
    language_model("an index of files that are not there",
                   {"model.safetensors": None, "model.safetensors.index.json": json.dumps(
                       {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}})},
                   "cannot be loaded", "check that the folder is complete"),
    language_model("no end-of-text token", {"tokenizer_config.json": edited(eos_token=None)}, "no end-of-text token",
                   "set eos_token"),
    language_model("sizes of another model", {"config.json": edited(intermediate_size=128)},
                   "other sizes than config.json says", "copy both from the same one"),
    language_model("a layer too few", {"config.json": edited(num_hidden_layers=3)}, "lacks 9 of the model's weights",
                   "must belong to the same model"),
    language_model("a configuration that is a list", {"config.json": "[1]"}, "cannot be loaded", CUT_SHORT),
    language_model("a word for a size", {"config.json": edited(hidden_size="large")}, "cannot be loaded", CUT_SHORT),
    language_model("no attention heads", {"config.json": edited(num_attention_heads=0)}, "cannot be loaded", CUT_SHORT),
    language_model("an encoder and decoder", {"config.json": edited(model_type="t5")}, "cannot be loaded",
                   "causal (decoder-only)"),
    language_model("an architecture that nobody knows", {"config.json": edited(model_type="nonsense")},
                   "cannot be loaded",
                   "pip install --upgrade transformers"),
    language_model("code of its own", {"config.json": edited(model_type="nonsense", auto_map={
        "AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
                                       "evil.py": "raise SystemExit('executed')\n"},
                   "cannot be loaded", "--trust_remote_code=true, if you trust"),
    language_model("a tokenizer of another model", {
        "config.json": edited(vocab_size=100), "model.safetensors": lambda _: weights_of_a_vocabulary(100)},
                   "tokens, the model only 100", "the model's own tokenizer"),
    language_model("positions for 40 tokens", {"config.json": edited(max_position_embeddings=40)}, "reads 40 tokens",
                   "choose a model that reads more", place="llm_path"),
)


def adapter(name: str, words: Mapping[str, Any] | None = None, files: Mapping[str, Change] | None = None, *, cause: str,
            remedy: str, place: str = ADAPTER) -> Case:
    """A case of an SFT adapter that a run is given."""
    changed = {f"{ADAPTER}/{file}": change for file, change in (files or {}).items()}
    return Case(name, {"model": "BIGRec_SOFT", "sft_adapter": ADAPTER, **(words or {})}, files=changed, cause=cause,
                place=place, remedy=remedy)


ADAPTERS = (
    adapter("an adapter that is not there", {"sft_adapter": "no/where"}, cause="there is no such file or folder",
            place="--sft_adapter=no/where", remedy="leave it out to train one"),
    adapter("an adapter of another rank", {"lora_r": 8}, cause="the adapter has lora_r = 4", remedy="--lora_r=4"),
    adapter("an adapter of another scale", {"lora_alpha": 32}, cause="the adapter has lora_alpha = 16", remedy="=16"),
    adapter("an adapter for a model that is tuned in full", {"tuning": "full"}, cause="no model.safetensors",
            remedy="tuning=lora"),
    adapter("an adapter of another width", {"tiny_hidden_size": 48}, cause="trained on another base model",
            remedy="leave out sft_adapter"),
    adapter("an adapter of another base model", {"llm_path": LLM}, cause="trained on another base model",
            remedy="leave out sft_adapter"),
    adapter("an adapter of other layers", {"lora_target_modules": "[k_proj]"}, cause="has weights this model lacks",
            remedy="lora_target_modules"),
    adapter("an adapter of fewer layers", {"lora_target_modules": "[q_proj,v_proj,k_proj]"},
            cause="lacks weights of this model", remedy="lora_target_modules"),
    adapter("an adapter of other random weights", {"tiny_seed": 5}, cause="trained on another base model",
            remedy="leave out sft_adapter"),
    adapter("an adapter of another width, without its record", {"tiny_hidden_size": 48}, {"../run.json": None},
            cause="of another size than the model", remedy="use the base model"),
    adapter("an adapter of fewer blocks, without its record", {"tiny_layers": 3}, {"../run.json": None},
            cause="lacks weights of this model", remedy="use the base model"),
    adapter("an adapter of more blocks, without its record", {"tiny_layers": 1}, {"../run.json": None},
            cause="has weights this model lacks", remedy="use the base model"),
    adapter("an adapter of a run that split otherwise", {"window": "prefix"}, cause="trained with window = exact",
            remedy="leave out sft_adapter"),
    adapter("an adapter of a run on other interactions", {"item_inter_num_interval": "[3,inf)"},
            cause="its training data may hold this run's test data", remedy="leave out sft_adapter"),
    adapter("an adapter without configuration", files={"adapter_config.json": None}, cause="no adapter in this folder",
            remedy="saved/RUN/sft"),
    adapter("an adapter with half a configuration", files={"adapter_config.json": cut(9)},
            remedy="copy the adapter's folder",
            cause="configuration cannot be read"),
    adapter("an adapter whose configuration is a list", files={"adapter_config.json": "[1]"},
            cause="configuration cannot be read", remedy="copy the adapter's folder"),
    adapter("an adapter that is no plain LoRA", files={"adapter_config.json": edited(use_dora=True)},
            cause="no plain LoRA (use_dora is set)", remedy="leave out sft_adapter"),
    adapter("an adapter without weights", files={"adapter_model.safetensors": None}, cause="the weights cannot be read",
            remedy="missing or cut short"),
    adapter("an adapter cut short", files={"adapter_model.safetensors": cut(500)}, cause="the weights cannot be read",
            remedy="missing or cut short"),
    adapter("an adapter that promises an exabyte", files={"adapter_model.safetensors": safetensors(
        tensor([2**29, 2**29], 2**60))}, cause="the weights cannot be read", remedy="missing or cut short"),
    adapter("an adapter as a pickle",
            files={"adapter_model.safetensors": None, "adapter_model.bin": PICKLE_THAT_DELETES},
            cause="the weights cannot be read", remedy="missing or cut short"),
    Case("a LoRA target like none that is there", {"lora_target_modules": "[nope]"}, cause="no layer 'nope'",
         place="lora_target_modules", remedy="known: "),
    Case("a LoRA target that is no single layer", {"lora_target_modules": "[self_attn]"}, cause="no layer 'self_attn'",
         place="lora_target_modules", remedy="known: "),
    Case("a LoRA target that is not there", {"lora_target_modules": "[q_proj,v_prj]"}, cause="no layer 'v_prj'",
         place="lora_target_modules", remedy="did you mean v_proj"),
)


def injected(name: str, files: Mapping[str, Change], cause: str, remedy: str, **words: Any) -> Case:
    """A case of a traditional model whose scores a run uses."""
    return Case(name, {"injection": "cf", "injection_model_file": POP, **words},
                files={f"{POP}/{file}": change for file, change in files.items()}, cause=cause,
                place=f"injection_model_file={POP}", remedy=remedy)


OTHER_RUNS = (
    injected("a run without weights", {"model.safetensors": None}, "no model.safetensors", "give the run folder"),
    injected("a run whose weights are cut short", {"model.safetensors": cut(50)}, "cannot be used", "train it anew"),
    injected("a run without record", {"run.json": None}, "cannot be used", "train it anew"),
    injected("a run whose record is half", {"run.json": cut(100)}, "cannot be used", "train it anew"),
    injected("a run whose record is a list", {"run.json": "[]"}, "cannot be used", "train it anew"),
    injected("a run on other data", {"run.json": swap('"catalogue": "', '"catalogue": "0')}, "another catalogue",
             "train it anew"),
    Case("a run of an LLM method for item vectors", {"model": "LLaRA_SFT", "rec_model_file": "saved/sft"},
         cause="no model.safetensors", place="rec_model_file=saved/sft", remedy="a traditional model"),
    Case("a retriever that does not exist", {"model": "Rerank_SFT", "retriever": "SASRek"},
         cause="neither a run folder nor a RecBole model", place="--retriever=SASRek", remedy="did you mean SASRec"),
    Case("no teacher", {"model": "DLLM2Rec"}, cause="teacher is missing", place="--model=DLLM2Rec",
         remedy="export-teacher"),
    Case("a teacher that is a run", {"model": "DLLM2Rec", "teacher": "saved/sft"},
         cause="no teacher.json in this folder",
         place="--teacher=saved/sft", remedy="export-teacher"),
    Case("a teacher that is half", {"model": "DLLM2Rec", "teacher": "t"}, files={"t/teacher.json": "{}"},
         cause="the teacher cannot be read", place="teacher=t", remedy="write it anew"),
    Case("chains of thought of other data", {"model": "LLMCF", "cot": "path", "cot_path": "cot.jsonl"},
         files={"cot.jsonl": '{"data": "other"}\n'}, cause="belong to other data", place="cot.jsonl",
         remedy="use the data set"),
    Case("chains of thought that are none", {"model": "LLMCF", "cot": "path", "cot_path": "cot.jsonl"},
         files={"cot.jsonl": "hello\n"}, cause="cannot be read", place="cot.jsonl, line 1", remedy="window_id"),
    Case("a record that names a stage outside of its run", argv=["export-teacher", "--run=saved/sft", "--out=teacher"],
         files={"saved/sft/run.json": edited(stages={"../pop": {}})}, cause="no readable record", place="saved/sft",
         remedy="that a finished run printed"),
    Case("a record that asks for a language model's code",
         argv=["export-teacher", "--run=saved/sft", "--out=teacher"],
         files={"saved/sft/run.json": lambda text: edited(user_settings={
             **json.loads(text)["user_settings"], "llm_path": LLM, "trust_remote_code": True})(text),
                "llm/config.json": edited(model_type="nonsense", auto_map={"AutoConfig": "evil.Config"}),
                "llm/evil.py": "raise SystemExit('executed')\n"},
         cause="cannot be loaded", place="llm_path=llm", remedy="--trust_remote_code=true, if you trust"),
    Case("artefacts that are damaged are made anew", {"run_name": "again"}, ends=0, says="HR@5",
         files={"saved/sft/sft/adapter_model.safetensors": cut(5), "saved/sft/run.json": "{"}),
)

CASES = (*LANGUAGE_MODELS, *ADAPTERS, *OTHER_RUNS)
