"""Several sets of trained weights over one base model in memory: made, switched, saved, loaded.

Teacher, student and frozen base are the same model with another set switched on; the base is never loaded
twice. `LoraWeights` keeps LoRA adapters (plain PEFT folders on disk); `FullWeights` keeps whole copies, for
`tuning: full` on small models. Knows nothing of what the weights are trained for.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_soft.artifacts import disk_errors
from recbole_soft.errors import ModelError
from recbole_soft.llm.adapter_checks import check_fit, check_lora_config, check_targets, read_weights

State = dict[str, Tensor]


@dataclass(frozen=True)
class LoraSettings:
    """LoRA of the SOFT paper: rank 8, scale 16, dropout 0.05, query and value projections."""

    lora_r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.05
    lora_target_modules: tuple[str, ...] | None = None


class TunedWeights(ABC):
    """Named sets of weights over one base model; at most one is active, and `base()` switches all off."""

    model: nn.Module
    active: str | None = None

    @abstractmethod
    def create(self, name: str, seed: int, copy_of: str | None = None) -> None:
        """Makes a set (fresh, or a copy of another), activates it and lets it be trained."""

    @abstractmethod
    def activate(self, name: str) -> None:
        """Switches to a set."""

    @abstractmethod
    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        """The base model, untouched by any set, within the `with` block."""

    @abstractmethod
    def state(self, name: str) -> State:
        """A copy of the set's weights, on the CPU."""

    @abstractmethod
    def load_state(self, name: str, state: State) -> None:
        """Puts weights into a set (created if need be)."""

    @abstractmethod
    def save(self, name: str, folder: Path) -> None:
        """Writes a set in Hugging Face's own format."""

    @abstractmethod
    def load(self, name: str, folder: Path) -> None:
        """Reads a set that `save` wrote."""

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser trains."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


class LoraWeights(TunedWeights):
    """LoRA adapters through PEFT."""

    def __init__(self, base_model: nn.Module, settings: LoraSettings):
        self._base_model, self.settings = base_model, settings
        self.model: nn.Module = base_model
        check_targets(base_model, settings.lora_target_modules or ())

    def create(self, name: str, seed: int, copy_of: str | None = None) -> None:
        from peft import get_peft_model

        copied = None if copy_of is None else self.state(copy_of)
        if self.model is self._base_model:
            torch.manual_seed(seed)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
                self.model = get_peft_model(self._base_model, self._config(), adapter_name=name)
        else:
            if name in self.model.peft_config:
                self.activate(self._other(name))
                self.model.delete_adapter(name)
            # Only now: making room for the set may itself have drawn random numbers.
            torch.manual_seed(seed)
            self.model.add_adapter(name, self._config())
        self.activate(name)
        if copied is not None:
            self.load_state(name, copied)

    def _other(self, name: str) -> str:
        """PEFT cannot delete its only adapter: makes sure that another one exists."""
        others = [other for other in self.model.peft_config if other != name]
        if not others:
            self.model.add_adapter("spare", self._config())
        return others[0] if others else "spare"

    def activate(self, name: str) -> None:
        self.model.set_adapter(name)
        self.active = name

    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        if self.model is self._base_model:
            yield self.model
            return
        with self.model.disable_adapter():
            yield self.model

    def state(self, name: str) -> State:
        from peft import get_peft_model_state_dict

        # By default PEFT asks the model hub, every time, whether the vocabulary has grown since.
        state = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        return {key: value.detach().cpu().clone() for key, value in state.items()}

    def load_state(self, name: str, state: State) -> None:
        from peft import set_peft_model_state_dict

        if self.model is self._base_model or name not in self.model.peft_config:
            self.create(name, seed=0)
        set_peft_model_state_dict(self.model, state, adapter_name=name)

    def save(self, name: str, folder: Path) -> None:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(self.state(name), folder / "adapter_model.safetensors", metadata={"format": "pt"})
            self.model.peft_config[name].save_pretrained(str(folder))

    def load(self, name: str, folder: Path) -> None:
        path = folder / "adapter_config.json"
        if not path.is_file():
            raise ModelError("there is no adapter in this folder (no adapter_config.json)", where=str(folder),
                             remedy="give the folder that a run wrote, for instance saved/RUN/sft")
        check_lora_config(path, self.settings.lora_r, self.settings.lora_alpha)
        state = read_weights(folder / "adapter_model.safetensors")
        if self.model is self._base_model or name not in self.model.peft_config:
            self.create(name, seed=0)
        check_fit(state, self.state(name), folder,
                  "use the base model and the lora_target_modules that the adapter was trained with")
        self.load_state(name, state)
        self.activate(name)

    def _config(self):
        from peft import LoraConfig

        return LoraConfig(
            r=self.settings.lora_r, lora_alpha=self.settings.lora_alpha, lora_dropout=self.settings.lora_dropout,
            target_modules=list(self.settings.lora_target_modules or _query_and_value(self._base_model)),
            bias="none", task_type="CAUSAL_LM",
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in self._base_model.modules()),
        )


class FullWeights(TunedWeights):
    """Whole copies of a small model's weights; the base is one of them."""

    BASE = "base"

    def __init__(self, base_model: nn.Module):
        self.model = base_model
        self._sets: dict[str, State] = {self.BASE: _copy(base_model.state_dict())}
        self._live = self.BASE
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)

    def create(self, name: str, seed: int, copy_of: str | None = None) -> None:
        del seed  # a full copy starts from weights that exist; nothing is drawn
        self._sets[name] = self.state(copy_of or self.BASE)
        if self._live == name:
            self._live = ""
        self.activate(name)

    def activate(self, name: str) -> None:
        self._show(name)
        self.active = name

    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        before = self._live
        self._show(self.BASE)
        try:
            yield self.model
        finally:
            self._show(before)

    def state(self, name: str) -> State:
        return _copy(self.model.state_dict() if name == self._live else self._sets[name])

    def load_state(self, name: str, state: State) -> None:
        self._sets[name] = _copy(state)
        if self._live == name:
            self.model.load_state_dict(state)

    def save(self, name: str, folder: Path) -> None:
        with disk_errors(folder):
            # Under the names that the model has in memory, not those of its original checkpoint: `load` compares them.
            self.model.save_pretrained(str(folder), state_dict=self.state(name), save_original_format=False)

    def load(self, name: str, folder: Path) -> None:
        path = folder / "model.safetensors"
        if not path.is_file():
            raise ModelError("there are no tuned weights in this folder (no model.safetensors)", where=str(folder),
                             remedy="give the folder that a run with tuning=full wrote, or set tuning=lora")
        state, known = read_weights(path), self._sets[self.BASE]
        # Tied weights are stored once; whatever is not in the file keeps its tie to what is.
        tied = {key: _tied_source(key, known, state) for key in known.keys() - state.keys()}
        state |= {key: state[source] for key, source in tied.items() if source}
        check_fit(state, known, folder, "use the base model that they were trained from")
        self.load_state(name, state)
        self.activate(name)

    def _show(self, name: str) -> None:
        if name == self._live:
            return
        if self._live:
            self._sets[self._live] = _copy(self.model.state_dict())
        self.model.load_state_dict(self._sets[name])
        self._live = name


def _copy(state: State) -> State:
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def _tied_source(key: str, known: State, state: State) -> str:
    """The stored key whose base value equals that of `key` (a tied output head equals the embedding)."""
    return next((other for other in state if other in known and torch.equal(known[other], known[key])), "")


def _query_and_value(model: nn.Module) -> Sequence[str]:
    """Names of the query and value projections, or of the fused projection that holds them."""
    leaves = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    for names in (("q_proj", "v_proj"), ("query", "value"), ("query_key_value",), ("qkv_proj",), ("c_attn",)):
        if leaves.issuperset(names):
            return names
    raise ModelError("no query and value projections were found in this architecture", where=type(model).__name__,
                     remedy="name the modules: --lora_target_modules=[name,name]")
