"""Stands in for vLLM, which needs a GPU: the names that `answer_with_vllm.py` uses, and their rules, on transformers.

Takes no argument that vLLM does not have. `LLM.fails_after` has it die in the middle of a job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__version__ = "0.0-stand-in"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError("n must be 1 when using greedy sampling")
        if not 0 < self.top_p <= 1 or self.temperature < 0 or self.max_tokens < 1:
            raise ValueError(str(self))


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None
    finish_reason: str


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


class LLM:
    """A causal language model of transformers, one prompt after the other."""

    fails_after: int | None = None
    arguments: dict = {}

    def __init__(self, model: str, dtype: str = "auto", max_model_len: int | None = None,
                 generation_config: str = "auto", trust_remote_code: bool = False, revision: str | None = None,
                 enable_lora: bool = False, max_loras: int = 1, max_lora_rank: int = 16, seed: int = 0):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        LLM.arguments = {name: value for name, value in locals().items() if isinstance(value, (str, int, type(None)))}
        assert max_lora_rank in RANKS and generation_config == "vllm" and not trust_remote_code
        self._rank, self._longest, self._takes_lora = max_lora_rank, max_model_len, enable_lora
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._adapted: str | None = None

    def generate(self, prompts, sampling_params, use_tqdm: bool = True, lora_request=None) -> list[RequestOutput]:
        import torch

        if LLM.fails_after is not None:
            LLM.fails_after -= 1
            if LLM.fails_after < 0:
                raise RuntimeError("killed")
        if lora_request is not None:
            self._adapt(lora_request)
        assert len(prompts) == len(sampling_params)
        with torch.no_grad():
            return [RequestOutput(prompt["prompt_token_ids"], [self._complete(prompt["prompt_token_ids"], params, index)
                                                               for index in range(params.n)])
                    for prompt, params in zip(prompts, sampling_params)]

    def _adapt(self, request) -> None:
        if self._adapted == request.lora_path:
            return
        import json

        from peft import PeftModel

        assert self._takes_lora and request.lora_int_id > 0
        assert json.loads((Path(request.lora_path) / "adapter_config.json").read_text())["r"] <= self._rank
        self._model = PeftModel.from_pretrained(self._model, request.lora_path).eval()
        self._adapted = request.lora_path

    def _complete(self, prompt: list[int], params: SamplingParams, index: int) -> CompletionOutput:
        import torch

        assert len(prompt) + params.max_tokens <= self._longest
        generator = None if params.seed is None else torch.Generator().manual_seed(params.seed + index)
        tokens, total, reason = [], 0.0, "length"
        while len(tokens) < params.max_tokens:
            logits = self._model(torch.tensor([prompt + tokens])).logits[0, -1].float()
            token = _choose(logits, params, generator)
            total += float(logits.log_softmax(0)[token])
            tokens.append(token)
            if token in params.stop_token_ids:
                reason = "stop"
                break
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return CompletionOutput(index, text, tuple(tokens), None if params.logprobs is None else total, reason)


def _choose(logits, params: SamplingParams, generator) -> int:
    import torch

    if params.temperature == 0:
        return int(logits.argmax())
    shares, order = (logits / params.temperature).softmax(0).sort(descending=True)
    shares = shares * (shares.cumsum(0) - shares < params.top_p)
    return int(order[torch.multinomial(shares, 1, generator=generator)])
