"""How work is divided: nothing lost, nothing twice, in order, whatever the number of processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.parallel import gradients, group
from recbole_soft.parallel.launch import Launch
from recbole_soft.resuming import parts as parts_module
from recbole_soft.resuming.parts import Parts
from recbole_soft.trainer.batches import warn_of_idle


class Threads:
    """Threads of this process in the place of processes; what they gather meets at a barrier."""

    def __init__(self, count: int):
        self.count, self._barrier, self._here = count, threading.Barrier(count), threading.local()
        self._values: list[Any] = [None] * count

    def rank(self) -> int:
        return 0 if getattr(self._here, "alone", 0) else self._here.rank

    def world_size(self) -> int:
        return 1 if getattr(self._here, "alone", 0) else self.count

    def is_first(self) -> bool:
        return self._here.rank == 0

    def gather(self, value: Any) -> list[Any]:
        if self.world_size() == 1:
            return [value]
        self._values[self._here.rank] = value
        self._barrier.wait(timeout=20)
        values = list(self._values)
        self._barrier.wait(timeout=20)
        return values

    def from_first(self, work: Callable[[], Any]) -> Any:
        return self.gather(work() if self.is_first() else None)[0]

    def alone(self):
        return _Alone(self._here)

    def run(self, work: Callable[[], Any]) -> list[Any]:
        """What `work` returns in every thread."""
        results: list[Any] = [None] * self.count

        def one(rank: int) -> None:
            self._here.rank = rank
            results[rank] = work()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        return results


class _Alone:
    def __init__(self, here: threading.local):
        self._here = here

    def __enter__(self) -> None:
        self._here.alone = getattr(self._here, "alone", 0) + 1

    def __exit__(self, *_error) -> None:
        self._here.alone -= 1


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Threads]:
    """`threads(n)`: n threads that the package takes for n processes."""

    def make(count: int) -> Threads:
        members = Threads(count)
        for module in (group, parts_module):
            for name in ("rank", "world_size", "is_first", "gather", "from_first", "alone"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(members, name))
        return members

    return make


@given(count=st.integers(0, 50), processes=st.integers(1, 9))
def test_shares_cover_all_rows_once_and_differ_by_one_at_most(count, processes):
    shares = []
    for rank in range(processes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(group._Group, "here", Launch(rank, processes, rank, processes))
            shares.append(group.share_rows(count))
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_parts_give_every_item_its_result_in_order(threads, tmp_path: Path, processes, count):
    members, computed, advanced = threads(processes), [], []

    def compute(items):
        assert group.world_size() == 1, "a share is worked out alone"
        computed.extend(items)
        return [item * item for item in items]

    def work():
        progress = advanced.append if group.is_first() and processes > 1 else None
        return Parts(tmp_path, 0.0).gather("squares", lambda: "key", range(count), 12, 3, compute, progress)

    assert members.run(work) == [[item * item for item in range(count)]] * processes
    assert sorted(computed) == list(range(count)), "nothing is worked out twice"
    assert len(list(tmp_path.iterdir())) == bool(count), "one process writes"


def test_parts_go_on_from_what_another_number_of_processes_wrote(threads, tmp_path: Path):
    def compute(items):
        computed.extend(items)
        return [item + 1 for item in items]

    def work():
        return Parts(tmp_path, 0.0).gather("sums", lambda: "key", range(40), 12, 3, compute)

    for processes, expected in ((2, 40), (2, 0), (3, None), (1, None)):
        computed: list[int] = []
        assert threads(processes).run(work) == [list(range(1, 41))] * processes
        assert expected is None or len(computed) == expected


@settings(max_examples=25)
@given(count=st.integers(1, 2000), size=st.sampled_from([8, 64, 512]), processes=st.integers(2, 16))
def test_parts_keep_all_processes_at_work_with_whole_batches(count, size, processes):
    batch = size // 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "world_size", lambda: processes)
        found = parts_module._part_size(count, size, batch)
    assert 1 <= found <= size
    if count >= batch * processes:
        assert found % batch == 0
        rounds = -(-count // (found * processes))
        assert rounds <= -(-count // (size * processes)) + 1
    elif count <= batch * (processes - 1):
        assert found == -(-count // processes), "less than a batch each: evenly"


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_gradients_are_those_of_one_process_to_the_bit(threads, monkeypatch, processes):
    members = threads(processes)
    monkeypatch.setattr(gradients, "_gathered", _gathered_by(members))
    batches = [[0, 1], [2], [3, 4, 5], [6], [7, 8]]
    inputs = torch.rand(9, 4, generator=torch.Generator().manual_seed(1))

    def work():
        used, unused = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(2))
        rounds: list[int] = []

        def backward(number, rows):
            loss = (inputs[rows] @ used).sigmoid().sum()
            loss.backward()
            return {"number": number, "loss": float(loss.detach())}

        results = gradients.accumulate(batches, backward, [unused, used], lambda done: rounds.append(len(done)))
        assert [result["number"] for result in results] == list(range(5)) and sum(rounds) == 5
        assert unused.grad is None, "an optimiser passes over what no micro-batch reached"
        return used.grad.tolist(), [result["loss"] for result in results]

    expected = torch.nn.Parameter(torch.ones(4))
    for rows in batches:
        (inputs[rows] @ expected).sigmoid().sum().backward()
    found = members.run(work)
    assert all(gradient == expected.grad.tolist() for gradient, _ in found)
    assert all(losses == found[0][1] for _, losses in found)


def _gathered_by(members: Threads) -> Callable:
    def gathered(parameters):
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        return members.gather(torch.cat([*flat, torch.tensor([float(p.grad is not None) for p in parameters])]))

    return gathered


def test_processes_without_a_micro_batch_are_told_of_with_a_value_that_helps(caplog):
    warn_of_idle(1, 16, 16)
    warn_of_idle(4, 16, 4)
    assert not caplog.records
    warn_of_idle(3, 16, 8)
    assert "1 of 3 processes have nothing to do" in caplog.text and "--micro_batch_size=5 " in caplog.text
