"""Lets RecBole 1.2.1 compute the metrics that need more than tensors.

Symptom: ItemCoverage, AveragePopularity, GiniIndex, ShannonEntropy and TailPercentage raise "AttributeError:
    'int' object has no attribute 'cpu'" (or 'Counter'), on every stack.
Where: recbole 1.2.1 evaluator/collector.py:226-227; 1.2.0 does not have these lines.
Upstream: https://github.com/RUCAIBox/RecBole/issues/2194 (open).
Guard: a Collector that holds a number cannot hand out its data.
Can go when: `Collector.get_data_struct` moves only tensors to the CPU.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole.evaluator.collector import Collector, DataStruct


def is_needed() -> bool:
    """Whether RecBole's collector fails on what is not a tensor."""
    from recbole.evaluator.collector import Collector, DataStruct

    collector = Collector.__new__(Collector)
    collector.data_struct = DataStruct()
    collector.data_struct.set("data.num_items", 1)
    try:
        collector.get_data_struct()
    except AttributeError:
        return True
    return False


def apply() -> None:
    """Let RecBole's collector move only its tensors."""
    from recbole.evaluator.collector import Collector

    get_tensors = Collector.get_data_struct

    def get_data_struct(self: Collector) -> DataStruct:
        """What was collected: tensors by RecBole's own method, everything else copied."""
        collected = self.data_struct._data_dict
        plain = {name: value for name, value in collected.items() if not hasattr(value, "cpu")}
        for name in plain:
            del collected[name]
        handed_out = get_tensors(self)
        handed_out._data_dict.update(copy.deepcopy(plain))
        # They describe the training data and are collected once, so the next evaluation needs them too.
        collected.update(plain)
        return handed_out

    Collector.get_data_struct = get_data_struct
