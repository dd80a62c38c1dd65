"""Answers the questions that `distill export` left in a folder, with vLLM.

    python FOLDER/answer_with_vllm.py            all on one machine
    python FOLDER/answer_with_vllm.py --part=1/4   one of four processes, each with a GPU of its own

Needs vLLM (0.8.5 or later) and the standard library; recbole_soft need not be installed here. Reads `engine.json`
and `requests.jsonl`, appends to `answers.jsonl`. Run again after an interruption: what is answered stays answered.
Every line is independent of the others, and the seed of a sample depends on its question alone, so that neither
batches nor parts nor interruptions decide an answer. (vLLM itself may round differently from batch to batch.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

PROTOCOL = 1
MISTAKE, INTERRUPTED = 2, 130
# vLLM sets memory aside for one of these ranks.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class Refused(Exception):
    """Something the user can mend; its text says what and how."""


def main(argv: Sequence[str] | None = None) -> int:
    """Answers what is not answered yet; returns the exit code."""
    options = _options(argv)
    try:
        task = _read_task(options.folder)
        with _opened(_answers_file(options.folder, options.part)) as file:
            requests = _read_requests(options.folder, task["requests"])
            done = _answered(file, task["key"])
            for other in options.folder.glob("answers*.jsonl"):
                done |= _ids(_whole_lines(other.read_bytes()), task["key"], str(other))
            waiting = _waiting(requests, done, options.part)
            if not waiting:
                _say("everything is answered already")
                return 0
            _answer(task, waiting, file, options)
    except Refused as refused:
        sys.stderr.write(f"error: {refused}\n")
        return MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command goes on from here\n")
        return INTERRUPTED
    _say("done; now: distill import, where recbole_soft is installed")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers the questions of `distill export` with vLLM.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent,
                        help="folder of the export (default: where this file lies)")
    parser.add_argument("--model", help="where the base model lies on this machine (default: where it was exported)")
    parser.add_argument("--dtype", help="precision (default: the export's; with an adapter, float32 becomes bfloat16)")
    parser.add_argument("--batch", type=int, default=1024, help="questions answered between two writes")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N",
                        help="answer the K-th of N parts, into a file of its own")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")
    parser.add_argument("--engine-args", type=json.loads, default={}, metavar="JSON",
                        help='further arguments of vllm.LLM, for instance {"tensor_parallel_size": 2}')
    return parser.parse_args(argv)


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N")
    return int(part), int(parts)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ---- the folder ------------------------------------------------------------------------------------
def _read_task(folder: Path) -> dict[str, Any]:
    try:
        task = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{folder / 'engine.json'} cannot be read: {error}; give the folder of distill export") from error
    if task.get("protocol") != PROTOCOL:
        raise Refused(f"the folder follows protocol {task.get('protocol')}, this program protocol {PROTOCOL}: "
                      "use the answer_with_vllm.py that lies in the folder")
    return task


def _read_requests(folder: Path, count: int) -> list[dict[str, Any]]:
    path = folder / "requests.jsonl"
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            requests = [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}; copy the folder anew") from error
    if len(requests) != count:
        raise Refused(f"{path} has {len(requests)} of {count} questions; copy the folder anew")
    return requests


def _answers_file(folder: Path, part: tuple[int, int]) -> Path:
    return folder / ("answers.jsonl" if part == (1, 1) else f"answers-{part[0]}-of-{part[1]}.jsonl")


def _opened(path: Path) -> IO[bytes]:
    """The file of answers, for this process alone (where the file system can tell)."""
    file = open(path, "a+b")  # noqa: SIM115
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise Refused(f"another process is writing {path}; for several, use --part=K/N") from error
    except (ImportError, OSError):
        pass
    return file


def _answered(file: IO[bytes], key: str) -> set[str]:
    """Ids that have their answers. Half a line at the end, left by an interruption, is cut off."""
    file.seek(0)
    content = file.read()
    whole = _whole_lines(content)
    if len(whole) < len(content):
        file.truncate(len(whole))
    return _ids(whole, key, file.name)


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _ids(whole: bytes, key: str, name: str) -> set[str]:
    found = set()
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            if "session" not in entry:
                found.add(entry["id"])
            elif entry["session"]["key"] != key:
                raise Refused(f"{name} holds answers to the questions of another export; move it away")
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{name}, line {number} is damaged ({error}); remove that line") from error
    return found


def _waiting(requests: list[dict[str, Any]], answered: set[str], part: tuple[int, int]) -> list[dict[str, Any]]:
    return [request for request in requests[part[0] - 1:: part[1]] if request["id"] not in answered]


def _append(file: IO[bytes], entries: Sequence[dict[str, Any]]) -> None:
    """Writes whole lines in one go, and waits until they are on the disk."""
    file.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode())
    file.flush()
    os.fsync(file.fileno())


# ---- the engine ------------------------------------------------------------------------------------
def _answer(task: dict[str, Any], waiting: list[dict[str, Any]], file: IO[bytes], options: argparse.Namespace) -> None:
    try:
        import vllm
        from vllm.lora.request import LoRARequest
    except ImportError as error:
        raise Refused(f"vLLM cannot be imported ({error}): pip install vllm, in an environment of its own") from error
    arguments = _engine_arguments(task, options)
    engine = vllm.LLM(**arguments)
    adapter = LoRARequest("sft", 1, str(_weights(task, options))) if task["tuning"] == "lora" else None
    _append(file, [{"session": {
        "protocol": PROTOCOL, "key": task["key"], "engine": "vllm", "version": vllm.__version__,
        "dtype": arguments["dtype"], "model": arguments["model"]}}])
    started, done = time.perf_counter(), 0
    for first in range(0, len(waiting), options.batch):
        batch = waiting[first: first + options.batch]
        outputs = engine.generate(
            [{"prompt_token_ids": request["prompt_token_ids"]} for request in batch],
            [vllm.SamplingParams(**_sampling(task, request["id"])) for request in batch],
            lora_request=adapter)
        _append(file, [{"id": request["id"], "answers": [_plain(answer) for answer in output.outputs]}
                       for request, output in zip(batch, outputs, strict=True)])
        done += len(batch)
        _say(f"{done:,} of {len(waiting):,} answered, {done / (time.perf_counter() - started):,.1f} per second")


def _engine_arguments(task: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What vllm.LLM is made with. `generation_config` keeps a checkpoint's own sampling defaults and stops out."""
    common = {"max_model_len": task["max_model_len"], "generation_config": "vllm",
              "trust_remote_code": options.trust_remote_code}
    dtype = options.dtype or task["dtype"]
    if task["tuning"] == "full":
        if options.model:
            raise Refused("all weights were tuned and lie in the folder: leave out --model")
        return {"model": str(_weights(task, options)), "dtype": dtype, **common, **options.engine_args}
    if dtype == "float32" and not options.dtype:
        dtype = "bfloat16"
        _say("exported in float32; vLLM's LoRA layers take 16 bits on a GPU: bfloat16 (--dtype decides)")
    rank = next((rank for rank in LORA_RANKS if rank >= task["lora_rank"]), None)
    if rank is None:
        raise Refused(f"lora_r = {task['lora_rank']}: vLLM takes ranks up to {LORA_RANKS[-1]}")
    revision = {"revision": task["revision"]} if task["revision"] and not options.model else {}
    return {"model": options.model or task["model"], "dtype": dtype, **common, **revision, "enable_lora": True,
            "max_loras": 1, "max_lora_rank": rank, **options.engine_args}


def _sampling(task: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments of SamplingParams for one question. The probability of a token is reported if any are asked for."""
    sampling = task["sampling"]
    common = {"max_tokens": task["max_tokens"], "stop_token_ids": task["stop_token_ids"], "logprobs": 1}
    if not sampling["samples"]:
        return {"n": 1, "temperature": 0.0, **common}
    seed = int.from_bytes(hashlib.sha256(f"{sampling['seed']} {name}".encode()).digest()[:4], "big")
    return {"n": sampling["samples"], "temperature": sampling["temperature"], "top_p": sampling["top_p"],
            "seed": seed, **common}


def _plain(answer: Any) -> dict[str, Any]:
    return {"token_ids": list(answer.token_ids), "logprob": answer.cumulative_logprob,
            "finish_reason": answer.finish_reason, "text": answer.text}


def _weights(task: dict[str, Any], options: argparse.Namespace) -> Path:
    """The folder of the tuned weights; engine.json may have come from anywhere, so that it must lie inside."""
    folder = options.folder.resolve()
    path = (folder / task["weights"]).resolve()
    if not (path.is_relative_to(folder) and path.is_dir()):
        raise Refused(f"there is no folder {task['weights']} in {folder}; copy the whole folder of the export")
    return path


if __name__ == "__main__":
    sys.exit(main())
