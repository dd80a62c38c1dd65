"""Stand-ins for our components and property files, so that these tests depend on neither."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recbole_soft.config import yaml_files
from recbole_soft.registry import MODELS, SCHEDULES, STRATEGIES, Registry

STUB_PACKAGE = "soft_stub_components"

MODELS_SOURCE = '''
from recbole.utils import ModelType
from recbole_soft.config.schema import Setting


class StubRec:
    """Grounds by guessing.

    More text that is not the summary.
    """

    name = "StubRec"
    type = ModelType.SEQUENTIAL
    settings = (Setting("guesses", "int", 3, "how many guesses", low=1),)


class StubRecX(StubRec):
    """A name that starts with another one's."""

    name = "StubRec_X"


class Classic:
    """Stands alone."""

    name = "Classic"
    family = "traditional"
    type = ModelType.SEQUENTIAL
    settings = (Setting("classic_width", "int", 8, "width", low=1),)

    def __init__(self, config, dataset):
        self.depth = config["classic_depth"]
'''

STRATEGIES_SOURCE = '''
class Strategy:
    name = ""


class WarmUp:
    name = "not_a_strategy"


class Plain(Strategy):
    """Plain fine-tuning."""

    name = "SFT"


class Soft(Strategy):
    """Self-optimised."""

    name = "SOFT"
    settings = (Setting("schedule", "str", "exponential", "curve", choices=("exponential", "constant")),)


class SoftWithout(Soft):
    """Without the scheduler."""

    name = "SOFT_woSA"
    settings = ()
'''

SCHEDULES_SOURCE = '''
class Schedule:
    name = ""


class Exponential(Schedule):
    name = "exponential"
    settings = (Setting("alpha", "float", 1, "steepness", low=0),)


class Constant(Schedule):
    name = "constant"
    settings = (Setting("tau", "float", 1.0, "weight", low=0, high=1),)
'''


@pytest.fixture
def stub_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replaces our models, strategies and schedules by the classes above; gives their folder."""
    folder = tmp_path / STUB_PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    kinds = ((MODELS, "models", MODELS_SOURCE, None), (STRATEGIES, "strategies", STRATEGIES_SOURCE, "Strategy"),
             (SCHEDULES, "schedules", SCHEDULES_SOURCE, "Schedule"))
    for registry, module, source, base in kinds:
        (folder / f"{module}.py").write_text(source)
        stub = Registry(registry.kind, folder / f"{module}.py", f"{STUB_PACKAGE}.{module}", base)
        monkeypatch.setitem(registry.__dict__, "_components", {entry.name: entry for entry in stub.components()})
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == STUB_PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Replaces properties/ by an empty folder; call it with a name and a text to add a file."""
    package = tmp_path / "package"
    root = package / "properties"
    root.mkdir(parents=True)
    monkeypatch.setattr(yaml_files, "PACKAGE_DIR", package)

    def add(name: str, text: str) -> Path:
        path = root / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return add


@pytest.fixture
def recbole() -> None:
    """RecBole, mended for today's libraries."""
    from recbole_soft import compat

    compat.apply()
