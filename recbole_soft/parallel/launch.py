"""Which process of a run this one is, as `torchrun` and `accelerate launch` tell it in the environment.

Reads the environment alone; torch is not imported, and nothing is started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from recbole_soft.errors import SettingError

COMMAND = "torchrun --nproc_per_node={} run_recbole_soft.py --model=BIGRec_SOFT --dataset=game"
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_UNSUPPORTED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM", "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": "a config file of DeepSpeed's own",
}
_FSDP, _DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
_ZERO_STAGE, _CUTS_LAYERS = "ACCELERATE_DEEPSPEED_ZERO_STAGE", "3"
# What accelerate's file may ask for beside pieces of the model -> what to do in its place.
_NOT_WITH_SHARDS = {
    "FSDP_OFFLOAD_PARAMS": "pieces stay on the device: start more processes, or --quantization=4bit without pieces",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "set fsdp_cpu_ram_efficient_loading: false; every process reads the files itself",
    "FSDP_ACTIVATION_CHECKPOINTING": "set fsdp_activation_checkpointing: false, and --gradient_checkpointing=True",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "pieces stay on the device: offload_param_device: none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "adapters stay on the device: offload_optimizer_device: none",
}
_OFF = ("", "0", "false", "no", "none")


@dataclass(frozen=True)
class Launch:
    """One process among those of a run.

    Attributes:
        rank: its number, from 0; the first process is 0.
        world_size: number of processes of the run, on all machines.
        local_rank: its number on its machine, from 0.
        local_world_size: number of processes on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    def gpu(self, chosen: str, visible: str | None) -> str:
        """The GPU of this process, as a value for `CUDA_VISIBLE_DEVICES`.

        Args:
            chosen: RecBole's setting `gpu_id`; empty for no GPU.
            visible: `CUDA_VISIBLE_DEVICES` as the user set it, None where it is not set.
        """
        if self.world_size == 1 or not chosen:
            return chosen
        for listed in (chosen, visible or ""):
            names = [name.strip() for name in listed.split(",")]
            if len(names) >= self.local_world_size > 1:
                return names[self.local_rank]
        return str(self.local_rank) if self.local_world_size > 1 else chosen


def launch(environment: Mapping[str, str] | None = None) -> Launch:
    """This process, from its environment; rank 0 of 1 if nobody launched several.

    Raises:
        SettingError: the launcher's variables contradict each other.
    """
    values = os.environ if environment is None else environment
    if not ({"RANK", "MASTER_ADDR"} <= values.keys()):
        return Launch()
    try:
        numbers = [int(values[name]) for name in _NEEDED[:4]]
        int(values["MASTER_PORT"])
        rank, world_size, local_rank, local_world_size = numbers
        if not (0 <= local_rank <= rank < world_size and local_rank < local_world_size <= world_size):
            raise ValueError
    except (KeyError, ValueError) as error:
        found = ", ".join(f"{name}={values.get(name, 'missing')}" for name in _NEEDED)
        raise SettingError(f"the launcher's variables do not describe a process: {found}", where="environment",
                           remedy=f"start the processes by {COMMAND.format(2)} ...") from error
    return Launch(rank, world_size, local_rank, local_world_size)


def asks_for_shards(environment: Mapping[str, str] | None = None) -> bool:
    """Whether accelerate's config file asks for a model in pieces: FSDP, or DeepSpeed's ZeRO 3.

    The first stages of ZeRO cut what is trained; here that are adapters, some megabytes, which stay whole.
    """
    values = os.environ if environment is None else environment
    return _is_on(values, _FSDP) or (_is_on(values, _DEEPSPEED) and values.get(_ZERO_STAGE) == _CUTS_LAYERS)


def _is_on(values: Mapping[str, str], variable: str) -> bool:
    return values.get(variable, "").lower() not in _OFF


def check_launch(here: Launch, asked: int | None, model: str, is_llm: bool,
                 environment: Mapping[str, str] | None = None) -> None:
    """Refuses what a run in several processes cannot be.

    Args:
        asked: the setting `world_size`.
        model: name of the model; `is_llm` says whether it is an LLM method.

    Raises:
        SettingError: another number of processes than asked for, a way to share a model that is not supported, or
            a model that one process trains.
    """
    values = os.environ if environment is None else environment
    if asked is not None and asked != here.world_size:
        processes = "1 process" if here.world_size == 1 else f"{here.world_size} processes"
        raise SettingError(f"world_size = {asked}, and this run has {processes}", where="world_size",
                           remedy=f"{COMMAND.format(asked)} ..., or --world_size={here.world_size}, or leave it out")
    for variable, name in _UNSUPPORTED.items():
        if _is_on(values, variable):
            raise SettingError(f"{name} is not supported", where=f"{variable} (a config file of accelerate)",
                               remedy="accelerate launch --config_file properties/launch/data_parallel.yaml ...; for a "
                                      "model too large for one GPU: properties/launch/fsdp.yaml (docs/parallel.md)")
    for variable, remedy in _NOT_WITH_SHARDS.items():
        if (_is_on(values, _FSDP) or _is_on(values, _DEEPSPEED)) and _is_on(values, variable):
            raise SettingError(f"{variable} = {values[variable]} is not supported", where="a config file of accelerate",
                               remedy=remedy)
    precision = values.get("ACCELERATE_MIXED_PRECISION", "")
    if precision.lower() not in _OFF:
        raise SettingError(f"mixed_precision = {precision} of accelerate has no effect here",
                           where="ACCELERATE_MIXED_PRECISION (a config file of accelerate)",
                           remedy="accelerate launch --mixed_precision=no ... --dtype=bfloat16")
    if here.world_size > 1 and not is_llm:
        raise SettingError(f"{model} is trained by one process, and {here.world_size} were started", where="model",
                           remedy=f"python run_recbole_soft.py --model={model} ...")


@cache
def visible_gpus() -> str | None:
    """`CUDA_VISIBLE_DEVICES` as it was when first asked for, before RecBole's Config overwrites it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
