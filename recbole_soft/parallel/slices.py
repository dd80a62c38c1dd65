"""A frozen language model in pieces: every process keeps its piece of every layer, and the whole layer while it runs.

What FSDP and the third stage of ZeRO do for weights (Rajbhandari et al., "ZeRO", 2020, section 5.3), here for those
that nobody trains: before a layer runs, forward or backward, the processes send each other their pieces of it; then
it is emptied. Adapters and all that lies outside of the layers stay whole, so gradients are those of whole layers.

torch's `fully_shard` asks all processes for the same passes in the same order. Ours search the answers to prompts of
their own, in as many steps as these take. So every walk through the layers is agreed upon beforehand, and who has
nothing to run walks along and only sends, until all have come to where results are gathered (`group.meet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from recbole_soft.parallel import group

MEETING, FORWARD, BACKWARD = range(3)
ALIGNMENT = 64  # bytes; as torch aligns what it allocates


class SlicedLayers:
    """The layers of one model, in the order in which they run.

    Args:
        layers: whole, on any device. Their weights are frozen.
        device: where the pieces go.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device):
        self._slices = [_Slice(layer, device) for layer in layers]
        self._of_storage = {of_layer.storage_id: number for number, of_layer in enumerate(self._slices)}
        self._whole: dict[int, Any] = {}  # number -> what tells that the pieces have come, None once it was asked
        self._direction = MEETING  # of the walk that this process is on
        self._begun = 0  # layers of this walk whose pieces are on their way or were
        self._hooks = [ExitStack() for _ in layers]
        for number, layer in enumerate(layers):
            self._hook(number, layer)
        group.help_others_by(self.help)

    @property
    def bytes_kept(self) -> int:
        """Bytes of this process's pieces."""
        return sum(of_layer.piece.numel() for of_layer in self._slices)

    def help(self) -> None:
        """Sends pieces to those who still run something; returns when nobody does."""
        self._leave()
        while (agreed := _agreed(MEETING)) != MEETING:
            self._walk_along(agreed)

    def reach(self, number: int, direction: int) -> None:
        """Makes a layer whole and empties those that the walk has left behind. Begins a walk where that is needed."""
        place = self._place(number, direction)
        if direction != self._direction or (place < self._begun and number not in self._whole):
            self._begin(direction)
        ahead = min(place + 1, len(self._slices) - 1)  # the next one's pieces travel while this one runs
        for coming in range(self._begun, ahead + 1):
            self._fetch(self._place(coming, direction))
        for other in list(self._whole):
            if other not in (number, self._place(ahead, direction)):
                self._empty(other)
        self._await(number)

    def _begin(self, direction: int) -> None:
        self._leave()
        while (agreed := _agreed(direction)) != direction:
            self._walk_along(agreed)
        self._direction = direction

    def _walk_along(self, direction: int) -> None:
        self._direction = direction
        self._leave()

    def _leave(self) -> None:
        """Ends the walk as the others expect it: what no layer has asked for is sent all the same."""
        if self._direction != MEETING:
            for place in range(self._begun, len(self._slices)):
                self._fetch(self._place(place, self._direction))
                self._empty(self._place(place, self._direction))
        for number in list(self._whole):
            self._empty(number)
        self._direction, self._begun = MEETING, 0

    def _place(self, number: int, direction: int) -> int:
        """When a layer's turn is in a walk; of a place, whose turn it is."""
        return number if direction == FORWARD else len(self._slices) - 1 - number

    def _fetch(self, number: int) -> None:
        self._whole[number] = self._slices[number].fetch()
        self._begun += 1

    def _await(self, number: int) -> None:
        if self._whole[number] is not None:
            with group.lost_as_user_error():
                self._whole[number].wait()
            self._whole[number] = None

    def _empty(self, number: int) -> None:
        self._await(number)
        self._slices[number].empty()
        del self._whole[number]

    # ---- hooks -----------------------------------------------------------------------------------
    def _hook(self, number: int, layer: nn.Module) -> None:
        layer.register_forward_pre_hook(lambda *_: self._before(number, layer))
        layer.register_forward_hook(lambda *_: self._after(number), always_call=True)
        for part in layer.modules():
            if part is not layer and next(part.parameters(recurse=False), None) is not None:
                part.register_forward_pre_hook(lambda *_: self._before_part(number))
        for parameter in self._slices[number].parameters:
            parameter.make_whole = partial(self.reach, number, FORWARD)

    def _before(self, number: int, layer: nn.Module) -> None:
        if _in_backward():
            return  # its parts see to it
        self.reach(number, FORWARD)
        is_recomputed = getattr(layer, "gradient_checkpointing", False) and layer.training
        if torch.is_grad_enabled() and not is_recomputed:
            hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
            self._hooks[number].enter_context(hooks)

    def _before_part(self, number: int) -> None:
        # What runs within a backward pass is run again because its activations were not kept; transformers does so
        # below the layer's own hooks.
        if _in_backward():
            self.reach(number, BACKWARD)

    def _after(self, number: int) -> None:
        self._hooks[number].close()
        if not _in_backward() and number in self._whole:
            self._empty(number)

    def _pack(self, tensor: Tensor) -> tuple[int | None, Tensor]:
        return self._of_storage.get(tensor.untyped_storage()._cdata), tensor

    def _unpack(self, packed: tuple[int | None, Tensor]) -> Tensor:
        """A weight that the backward pass needs is made whole first."""
        number, tensor = packed
        if number is not None:
            self.reach(number, BACKWARD)
        return tensor


class _Slice:
    """A layer's weights: this process's piece of them, and room for all of them, which is given back in between."""

    def __init__(self, layer: nn.Module, device: torch.device):
        self.parameters = list(layer.parameters())
        sizes = [parameter.numel() * parameter.element_size() for parameter in self.parameters]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        processes, rank = group.processes_of_run()
        share = -(-starts[-1] // (processes * ALIGNMENT)) * ALIGNMENT
        self._all = torch.zeros(processes * share, dtype=torch.uint8, device=device)
        self._bytes = self._all.untyped_storage().nbytes()
        for parameter, start, size in zip(self.parameters, starts[:-1], sizes, strict=True):
            values = self._all[start: start + size].view(parameter.dtype).view(parameter.shape)
            values.copy_(parameter.data)
            parameter.requires_grad_(False)
            parameter.data = values
        self.piece = self._all[rank * share: (rank + 1) * share].clone()
        self.storage_id = self._all.untyped_storage()._cdata
        self.empty()

    def fetch(self) -> Any:
        """Asks for the pieces of all processes; what comes back tells when they have come."""
        self._all.untyped_storage().resize_(self._bytes)
        # `data`, because autograd must not take it for a change of what a forward pass has seen.
        return group.gather_single(self._all.data, self.piece, async_op=True)

    def empty(self) -> None:
        """Gives the memory of the whole layer back."""
        self._all.untyped_storage().resize_(0)


def slice_model(model: nn.Module, device: torch.device) -> SlicedLayers:
    """Cuts a model's layers into pieces and moves everything else of it to a device. All processes have to call it.

    Args:
        model: a causal language model, in memory of the processor, without adapters.
    """
    layers = max((module for module in model.modules() if isinstance(module, nn.ModuleList)),
                 key=lambda found: sum(parameter.numel() for parameter in found.parameters()))
    sliced = SlicedLayers(list(layers), device)
    in_layers = {id(parameter) for parameter in layers.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in in_layers:
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return sliced


def make_whole(parameter: nn.Parameter) -> None:
    """Makes sure that a weight can be read outside of its layer's forward pass, until the next layer runs."""
    getattr(parameter, "make_whole", lambda: None)()


def _agreed(wish: int) -> int:
    """What all processes do next: walk forward if one of them wishes to, else backward, else meet."""
    wishes = group.wishes_of_all(wish)
    return min((value for value in wishes if value != MEETING), default=MEETING)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
