"""The world of the corpus, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_inputs import world


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world as it is before anything goes wrong."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        world.build(folder)
    return folder
