"""What RecBole and torch make of a setting becomes a message; what is wrong in our code keeps its traceback."""

from __future__ import annotations

import pytest

from recbole_soft.config.refusals import settings_that_fail
from recbole_soft.errors import DataError, ModelError, SettingError

pytestmark = pytest.mark.usefixtures("recbole")


class Config(dict):
    """As much of a SoftConfig as is asked for."""

    unchecked = ("n_heads",)

    def __missing__(self, key: str) -> None:
        return None


CONFIG = Config(n_heads=3, num_beams=9)


def fail_in_recbole() -> None:
    from recbole.utils import get_model

    get_model("SASRec")(CONFIG, None)


def test_a_failure_inside_recbole_names_the_settings_that_only_recbole_knows():
    with pytest.raises(SettingError, match=r"RecBole cannot use the settings: (.|\n)*n_heads=3(.|\n)*remove"), \
            settings_that_fail(CONFIG):
        fail_in_recbole()


def test_without_such_settings_it_is_a_bug():
    config = Config(CONFIG)
    config.unchecked = ()
    with pytest.raises((TypeError, AttributeError, KeyError)), settings_that_fail(config):
        fail_in_recbole()


def test_a_failure_of_ours_stays_what_it_is():
    from recbole_soft.data.windows import sample_rows

    with pytest.raises(ValueError, match="Seed must be"), settings_that_fail(CONFIG):
        sample_rows(10, 5, seed=-1)
    with pytest.raises(DataError, match="mine"), settings_that_fail(CONFIG):
        raise DataError("mine")


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")])
def test_memory_that_runs_out_names_what_decides_it(error):
    with pytest.raises(ModelError, match=r"memory ran out(.|\n)*num_beams=9(.|\n)*lower one of these"), \
            settings_that_fail(CONFIG):
        raise error
