"""LoRA layers as single matrices: same logits, and a model that is afterwards what it was, bit for bit."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from recbole_soft.llm.merged import merged_adapters

OLD_PEFT = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
pytestmark = OLD_PEFT
IDS = torch.arange(3, 11).view(2, 4)


def adapted(family: str = "Llama", **lora):
    """A small random model with two adapters, of which `default` is active, both unequal to 0."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": 64}
    if family == "Llama":
        sizes |= {"intermediate_size": 48, "num_key_value_heads": 2}
    base = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**sizes))
    targets = ["q_proj", "v_proj"] if family == "Llama" else ["c_attn"]
    settings = LoraConfig(r=4, target_modules=targets, fan_in_fan_out=family == "GPT2", **lora)
    model = get_peft_model(base, settings)
    model.add_adapter("other", settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    return model.eval()


def lora_layers(model: nn.Module) -> int:
    return sum(hasattr(module, "lora_A") for module in model.modules())


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
@pytest.mark.parametrize("adapter", ["default", "other"])
def test_logits_are_those_of_the_active_adapter(family, adapter):
    model = adapted(family)
    model.set_adapter(adapter)
    apart = model(IDS).logits
    with merged_adapters(model.get_base_model()):
        assert lora_layers(model) == 0
        together = model(IDS).logits
    with model.disable_adapter():
        without = model(IDS).logits

    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert (apart - without).abs().max() > 0.01


def test_everything_comes_back_even_after_an_error():
    model = adapted()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    layers = {name: id(module) for name, module in model.named_modules()}

    with pytest.raises(RuntimeError, match="stopped"), merged_adapters(model.get_base_model()):
        raise RuntimeError("stopped")

    assert {name: id(module) for name, module in model.named_modules()} == layers
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_adapters_that_are_off_stay_off():
    model = adapted()
    with model.disable_adapter():
        expected = model(IDS).logits
        with merged_adapters(model.get_base_model()):
            assert torch.equal(model(IDS).logits, expected)


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed:peft.utils.warning.PeftWarning")
@pytest.mark.parametrize("lora", [{"use_dora": True}, {"lora_bias": True}])
def test_what_is_more_than_a_sum_of_weights_stays_apart(lora):
    model = adapted(**lora)
    expected = model(IDS).logits
    with merged_adapters(model.get_base_model()):
        assert lora_layers(model) > 0
        assert torch.equal(model(IDS).logits, expected)


def test_weights_of_another_precision_stay_apart():
    model = adapted().to(torch.bfloat16)
    expected = model(IDS).logits
    with merged_adapters(model.get_base_model()):
        assert torch.equal(model(IDS).logits, expected)
