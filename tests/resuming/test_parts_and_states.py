"""Parts of long results, and states of generators and optimisers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.resuming.parts import Parts
from recbole_soft.resuming.states import (
    optimizer_state,
    random_state,
    set_optimizer_state,
    set_random_state,
    tensor_hash,
)
from recbole_soft.trainer.stage_saves import plain_json


class Interrupted(Exception):
    pass


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 30), size=st.integers(1, 7), stops=st.lists(st.integers(0, 6), max_size=5),
       cut=st.integers(0, 40))
def test_parts_go_on_where_they_were_ended_in_the_same_batches(tmp_path_factory, count, size, stops, cut):
    folder = tmp_path_factory.mktemp("parts")
    items = [f"item {number}" for number in range(count)]
    batches = [items[first: first + size] for first in range(0, count, size)]
    computed: list[list[str]] = []

    def gather(stop: int | None) -> list:
        def compute(part):
            if stop is not None and calls[0] >= stop:
                raise Interrupted
            calls[0] += 1
            computed.append(list(part))
            return [[text, len(text) / 3] for text in part]

        calls = [0]
        return Parts(folder, 0).gather("answers", lambda: "key", items, size, 1, compute)

    for stop in stops:
        if sum(map(len, computed)) < count:
            try:
                gather(stop)
            except Interrupted:
                file = folder / "answers-key.jsonl"
                if file.is_file() and cut < 20:  # half a line, as a kill in the middle of a write leaves it
                    file.write_bytes(file.read_bytes() + b"0123456789abcdef {\"part\": 7"[:cut])
    assert gather(None) == [[text, len(text) / 3] for text in items]
    assert computed == batches  # each batch once, in order, with the same items


def test_damaged_parts_are_worked_out_again(tmp_path):
    parts, computed = Parts(tmp_path, 0), []

    def compute(part):
        computed.append(part)
        return [2 * number for number in part]

    numbers = list(range(9))
    assert parts.gather("x", lambda: "k", numbers, 3, 1, compute) == [2 * number for number in numbers]
    file = tmp_path / "x-k.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1].replace(b"6", b"5") + lines[2])
    computed.clear()
    assert parts.gather("x", lambda: "k", numbers, 3, 1, compute) == [2 * number for number in numbers]
    assert computed == [[3, 4, 5], [6, 7, 8]]


def test_other_keys_find_nothing_and_quick_results_are_not_written(tmp_path):
    assert Parts(tmp_path, 0).gather("x", lambda: "one", [1], 1, 1, lambda part: ["one"]) == ["one"]
    assert Parts(tmp_path, 0).gather("x", lambda: "two", [1], 1, 1, lambda part: ["two"]) == ["two"]
    asked: list[str] = []
    slow = Parts(tmp_path / "new", 60)
    assert slow.gather("x", lambda: asked.append("key") or "k", [1, 2], 1, 1, lambda part: part) == [1, 2]
    assert not asked and not (tmp_path / "new").exists()


def test_a_disk_that_is_full_costs_no_results(tmp_path, monkeypatch, caplog):
    import os

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert Parts(tmp_path, 0).gather("x", lambda: "k", [1, 2, 3], 1, 1, lambda part: part) == [1, 2, 3]
    assert "No space left on device" in caplog.text and (tmp_path / "x-k.jsonl").read_bytes() == b""


def test_random_streams_go_on():
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    np.random.standard_normal()  # leaves a second number behind, which is part of the state

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.standard_normal()), np.random.rand(),
                *torch.rand(3).tolist()]

    draw()
    state, tensors = random_state()
    state = plain_json(state)
    wanted = [draw() for _ in range(3)]
    assert [draw() for _ in range(3)] != wanted
    set_random_state(state, tensors)
    assert [draw() for _ in range(3)] == wanted


@pytest.mark.parametrize("make", [
    lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    lambda parameters: torch.optim.RMSprop(parameters, lr=0.1),
    lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
])
def test_optimisers_go_on_exactly(make):
    def step(parameters, optimizer, schedule, number):
        loss = sum(((number + 1) * parameter - 3).square().sum() for parameter in parameters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    def fresh():
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.randn(2, 2))]
        optimizer = make(parameters)
        return parameters, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (1 + done))

    whole = fresh()
    for number in range(3):
        step(*whole, number)
    state, tensors = optimizer_state(whole[1])
    state, schedule = plain_json(state), plain_json(whole[2].state_dict())
    weights = [parameter.detach().clone() for parameter in whole[0]]
    for number in range(3, 6):
        step(*whole, number)
    again = fresh()
    with torch.no_grad():
        for parameter, weight in zip(again[0], weights, strict=True):
            parameter.copy_(weight)
    again[2].load_state_dict(schedule)
    set_optimizer_state(again[1], state, tensors)
    for number in range(3, 6):
        step(*again, number)
    for one, other in zip(whole[0], again[0], strict=True):
        assert torch.equal(one, other)


def test_hash_of_a_tensor_is_of_its_bits():
    one = torch.tensor([[1.0, -0.0]])
    assert tensor_hash(one) == tensor_hash(one.clone()) != tensor_hash(torch.tensor([[1.0, 0.0]]))
    assert tensor_hash(one) != tensor_hash(one.flatten()) and tensor_hash(torch.tensor(1.0)) != tensor_hash(one)


def test_plain_json_takes_numbers_and_refuses_objects():
    given_values = {"a": np.float64(0.1), "b": torch.tensor(2), "c": (1, None)}
    assert plain_json(given_values) == {"a": 0.1, "b": 2, "c": [1, None]}
    for value in (object(), torch.ones(2)):
        with pytest.raises(TypeError):
            plain_json({"a": value})
