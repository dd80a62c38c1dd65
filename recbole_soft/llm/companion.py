"""A small module of ours that belongs to every set of tuned weights: made, switched, saved and loaded with it.

Wraps any `TunedWeights`. On disk the module's weights are a safetensors file of their own beside what the
wrapped weights write, so that PEFT and transformers still open the folder. Published LLaRA code keeps only what
requires a gradient at the moment, and so loses its projector now and then; here it is always saved.
Knows nothing of what the module computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from recbole_soft.artifacts import disk_errors
from recbole_soft.errors import ModelError
from recbole_soft.llm.adapter_checks import check_fit, read_weights
from recbole_soft.llm.adapters import State, TunedWeights

IDENTITY = "belongs_to"


class CompanionWeights(TunedWeights):
    """Sets of weights of a language model, each with its own weights of the module.

    Args:
        tuned: the language model's sets.
        module: the module; what it computes with always belongs to the set that is switched on.
        draw: gives the module fresh weights from a seed.
        file_name: of the module's weights in a set's folder.
        identity: what the weights belong to (for a projector: the vectors it projects); checked on loading.
    """

    PREFIX = "companion."

    def __init__(
        self, tuned: TunedWeights, module: nn.Module, draw: Callable[[int], None], file_name: str, identity: str
    ):
        self._tuned, self._module, self._draw = tuned, module, draw
        self._file_name, self._identity = file_name, identity
        self._sets: dict[str, State] = {}
        self._live: str | None = None

    @property
    def model(self) -> nn.Module:
        """The language model, with or without adapter."""
        return self._tuned.model

    @property
    def active(self) -> str | None:
        """Name of the set that is switched on."""
        return self._tuned.active

    def create(self, name: str, seed: int, copy_of: str | None = None) -> None:
        copied = None if copy_of is None else self._own_state(copy_of)
        self._tuned.create(name, seed, copy_of)
        self._put_away()
        self._live = name
        if copied is None:
            self._draw(seed)
        else:
            self._module.load_state_dict(copied)

    def activate(self, name: str) -> None:
        self._tuned.activate(name)
        self._show(name)

    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        with self._tuned.base() as model:
            yield model

    def state(self, name: str) -> State:
        own = {self.PREFIX + key: value for key, value in self._own_state(name).items()}
        return self._tuned.state(name) | own

    def load_state(self, name: str, state: State) -> None:
        self._tuned.load_state(name, {key: value for key, value in state.items() if not key.startswith(self.PREFIX)})
        own = {key.removeprefix(self.PREFIX): value for key, value in state.items() if key.startswith(self.PREFIX)}
        self._load_own(name, own)

    def save(self, name: str, folder: Path) -> None:
        self._tuned.save(name, folder)
        with disk_errors(folder):
            # One entry alone: safetensors writes several in an order that changes from process to process.
            save_file(self._own_state(name), folder / self._file_name, metadata={IDENTITY: self._identity})

    def load(self, name: str, folder: Path) -> None:
        path = folder / self._file_name
        if not path.is_file():
            raise ModelError(f"there is no {self._file_name} in this folder", where=str(folder),
                             remedy="give the folder of a stage that a run of this very model wrote")
        state = read_weights(path)
        check_fit(state, self._module.state_dict(), path, "use the item vectors and the language model of that run")
        with safe_open(path, framework="pt") as file:
            theirs = (file.metadata() or {}).get(IDENTITY)
        if theirs != self._identity:
            raise ModelError(f"{self._file_name} belongs to other vectors ({theirs}) than this run's "
                             f"({self._identity})", where=str(folder),
                             remedy="use the same rec_model_file (or artifacts_dir) as the run that trained it")
        self._tuned.load(name, folder)
        self._load_own(name, state)

    def parameters(self) -> list[nn.Parameter]:
        return [*self._tuned.parameters(), *self._module.parameters()]

    def _own_state(self, name: str) -> State:
        state = self._module.state_dict() if name == self._live else self._sets[name]
        return {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}

    def _load_own(self, name: str, state: State) -> None:
        """Puts weights of the module into a set; the language model's active set decides which one is live."""
        if self._live == name:
            self._module.load_state_dict(state)
        else:
            self._sets[name] = {key: value.detach().cpu().clone() for key, value in state.items()}
        if self.active is not None:
            self._show(self.active)

    def _put_away(self) -> None:
        if self._live is not None:
            self._sets[self._live] = self._own_state(self._live)

    def _show(self, name: str) -> None:
        if name == self._live:
            return
        self._put_away()
        with torch.no_grad():
            self._module.load_state_dict(self._sets[name])
        self._live = name
