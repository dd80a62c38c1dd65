"""Tiny models, batches and the oracle for the tests of response scores: Hugging Face's own loss."""

from __future__ import annotations

import random

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from recbole_soft.llm.score import score_responses

VOCABULARY = 96
FAMILIES = ("llama", "qwen2", "gpt2", "qwen3", "gemma", "opt", "cohere", "granite", "mistral", "phi3")
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
ONLY = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 256},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 20.0, "sliding_window": 64},
}


def make_model(family="llama", attention="sdpa", lora=False, **settings_of_model):
    torch.manual_seed(0)
    sizes = {**SIZES, **ONLY.get(family, {}), **settings_of_model}
    if family in ("gpt2", "opt"):
        sizes = {
            name: size for name, size in sizes.items() if name not in ("head_dim", "num_key_value_heads")
        }
    if family == "gpt2":
        standard = ("vocab_size", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id")
        sizes = {name: size for name, size in sizes.items() if name.startswith("n_") or name in standard}
    config = AutoConfig.for_model(family, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if lora:
        targets = {"gpt2": ["c_attn"], "phi3": ["qkv_proj"]}.get(family, ["q_proj", "v_proj"])
        adapter = LoraConfig(
            r=4,
            target_modules=targets,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
            fan_in_fan_out=family == "gpt2",
        )
        model = get_peft_model(model, adapter)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would leave every gradient of A zero
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def make_batch(windows=3, names=2, shared=20, seed=0):
    source = random.Random(seed)

    def draw(low, high):
        return [source.randrange(3, VOCABULARY) for _ in range(source.randint(low, high))]

    common = [source.randrange(3, VOCABULARY) for _ in range(shared)]
    prompts = [common + draw(1, 9) for _ in range(windows)]
    # All responses open with the same token, as quoted titles do.
    responses = {f"response_{n}": [[5, *draw(0, 6), 2] for _ in prompts] for n in range(names)}
    return prompts, responses


def oracle(model, prompts, of_name, embeddings=None):
    """Summed token losses `[B]` of each response with the model's own `labels`, one sequence at a time."""
    losses = []
    for window, (prompt, response) in enumerate(zip(prompts, of_name, strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        inputs = {"input_ids": ids}
        if embeddings is not None:
            table = model.get_input_embeddings()
            inputs = {"inputs_embeds": torch.cat([embeddings[window], table(ids[0, len(prompt) :])])[None]}
        mean = model(**inputs, attention_mask=torch.ones_like(ids), labels=labels).loss if response else None
        losses.append(mean * len(response) if response else torch.zeros(()))
    return torch.stack(losses)


def weighted(per_name):
    """A loss that treats every response and every window differently."""
    weights = torch.linspace(0.5, -1.5, len(per_name) * len(per_name[0])).view(len(per_name), -1)
    return (torch.stack(per_name) * weights).sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}


def assert_equal_gradients(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    # A parameter whose gradient is zero in exact arithmetic (OPT's bias of a key) holds nothing but rounding.
    rounding = 1e-6 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        allowed = tolerance * scale if scale > rounding else rounding
        assert float((found[name] - gradient).abs().max()) <= allowed, name


def assert_equals_oracle(model, prompts, responses):
    scores = score_responses(model, prompts, responses)
    expected = [oracle(model, prompts, of_name) for of_name in responses.values()]
    for name, values in zip(responses, expected, strict=True):
        torch.testing.assert_close(scores[name].nll, values, rtol=1e-5, atol=1e-4)
        assert scores[name].tokens.tolist() == [len(response) for response in responses[name]]
        assert scores[name].nll.dtype == torch.float32
    found = gradients(model, weighted([scores[name].nll for name in responses]))
    assert_equal_gradients(found, gradients(model, weighted(expected)))
