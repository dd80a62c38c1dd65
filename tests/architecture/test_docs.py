"""The documents against the code: modules, files, settings, components and examples that they name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from recbole_soft.config import recbole_keys
from recbole_soft.config.schema import SETTINGS
from recbole_soft.registry import MODELS, SCHEDULES, STRATEGIES, Registry
from tests.architecture.test_layers import LAYERS, PACKAGE

ROOT = PACKAGE.parent
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/design.md", "docs/methods.md",
             "docs/tuning.md", "docs/quantisation.md")
SOURCES = ("recbole_soft", "tests", "properties")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
FILE_NAME = re.compile(r"[\w./-]*\w\.(?:py|md|yaml|toml|txt|cfg)\Z|[\w./-]+/\Z")
OUTPUT_NAME = re.compile(r"[\w-]+\.(?:json|jsonl|csv|log|safetensors|txt)\Z")
SETTING = re.compile(r"--([a-z]\w*)(?:=.*)?\Z|([A-Za-z]\w*): [^ ].*\Z")
COMMAND_SETTING = re.compile(r"--([A-Za-z]\w*)=")
IDENTIFIER = re.compile(r"[A-Za-z]*_\w*(?:\(\))?\Z")
PLACEHOLDERS = ("NAME", "STAGE", "MODEL", "RUN", "HASH")
NO_SETTINGS = {"Deviation", "name", "help", "version", "space", "trials", "study", "search_seed", "sampler", "pruner"}


@cache
def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def spans_of(document: str) -> list[str]:
    """Everything in single backticks outside of code blocks."""
    return CODE_SPAN.findall(FENCE.sub("", text_of(document)))


def examples(language: str) -> dict[str, str]:
    """Code blocks of CONTRIBUTING.md by the path or words in their first line."""
    blocks = [body for found, body in FENCE.findall(text_of("CONTRIBUTING.md")) if found == language]
    return {body.split("\n", 1)[0].removeprefix("# "): body for body in blocks}


@cache
def source_text() -> str:
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")
             and path != Path(__file__)]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def known_settings() -> set[str]:
    components = [component for registry in (MODELS, STRATEGIES, SCHEDULES) for component in registry.components()]
    own = {setting.name for component in components for setting in component.settings}
    recbole = {setting.name for setting in recbole_keys.typed_settings()} | recbole_keys.general_keys()
    return own | {setting.name for setting in SETTINGS} | recbole | {"model", "dataset", "config_files"}


def settings_of_examples() -> set[str]:
    return set(re.findall(r'Setting\("(\w+)"', text_of("CONTRIBUTING.md")))


def test_every_module_is_in_the_table_of_layers_in_their_order():
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text_of("ARCHITECTURE.md"), re.MULTILINE)
    listed = {name: int(layer) for layer, cell in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)}
    assert listed == {name: layer for layer, names in enumerate(LAYERS, 1) for name in names}
    assert list(listed.values()) == sorted(listed.values())
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
               or (path.is_dir() and any(path.glob("*.py")))}
    assert modules - {"__init__"} <= set(listed)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_named_exists(document):
    for span in spans_of(document):
        if any(word in span for word in PLACEHOLDERS) or "://" in span:
            continue
        if OUTPUT_NAME.match(span) and not (ROOT / span).exists():
            assert span in source_text(), f"{document}: no module writes {span}"
        elif FILE_NAME.match(span) and span not in map("properties/prompt/{}.yaml".format, ("music",)):
            places = (ROOT / span, PACKAGE / span, ROOT / "properties" / span)
            assert any(place.exists() for place in places), f"{document} names {span}, which does not exist"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_setting_named_exists(document):
    known = known_settings() | settings_of_examples() | NO_SETTINGS
    spans = [SETTING.match(span) for span in spans_of(document)]
    named = {match[1] or match[2] for match in spans if match}
    named |= {key for span in spans_of(document) for key in COMMAND_SETTING.findall(span)}
    named |= {key for _, block in FENCE.findall(text_of(document)) for key in COMMAND_SETTING.findall(block)}
    assert named <= known, f"{document} names settings that do not exist: {sorted(named - known)}"


def test_defaults_in_the_methods_are_the_code_s():
    """`num_beams: 4` and the like, where the text says that it is the default (first mention)."""
    defaults = {setting.name: str(setting.default) for registry in (STRATEGIES, SCHEDULES)
                for component in registry.components() for setting in component.settings}
    defaults |= {setting.name: str(setting.default) for setting in SETTINGS}
    mentioned = [span.split(": ", 1) for span in spans_of("docs/methods.md") if SETTING.match(span) and ": " in span]
    stated: dict[str, list[str]] = {}
    for name, value in mentioned:
        stated.setdefault(name, []).append(value)
    for name in ("num_beams", "cutoff_len", "max_new_tokens", "patience", "train_sample", "valid_sample", "test_sample",
                 "distance_sample", "start_from", "sd_target", "alpha", "tau", "window", "duplicate_titles",
                 "mask_history"):
        assert stated[name][0] == defaults[name], f"docs/methods.md calls {name}: {stated[name][0]} the default"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_identifier_named_is_somewhere_in_the_code(document):
    text = source_text() + "".join(examples("python").values())
    for span in spans_of(document):
        if IDENTIFIER.match(span):
            assert re.search(rf"\b{re.escape(span.removesuffix('()'))}\b", text) or span in known_settings() or \
                any(span in (f"{model}_{strategy}" for strategy in STRATEGIES) for model in MODELS), \
                f"{document} names {span}, which is nowhere in the code"


def test_methods_describe_every_component():
    named = set(spans_of("docs/methods.md"))
    for registry in (MODELS, STRATEGIES, SCHEDULES):
        assert set(registry.names()) <= named, f"docs/methods.md lacks {set(registry.names()) - named}"


def test_deviations_of_modules_are_in_the_methods():
    """Each module with a `Deviation:` has its method's section; the wording is the document's own."""
    noted = [path for path in PACKAGE.rglob("*.py") if "Deviation:" in path.read_text(encoding="utf-8")]
    methods = text_of("docs/methods.md")
    assert noted and methods.count("*Deviation") >= sum(path.read_text(encoding="utf-8").count("Deviation:")
                                                        for path in noted)


def test_checklists_are_short():
    sections = re.split(r"^## ", text_of("CONTRIBUTING.md"), flags=re.MULTILINE)
    ticks = {section.split("\n", 1)[0]: section.count("- [ ]") for section in sections if section.startswith("Add ")}
    assert set(ticks) == {f"Add a {what}" for what in ("strategy", "model", "schedule", "data set", "shim",
                                                       "prompt template")}
    assert all(0 < count <= 8 for count in ticks.values())


@pytest.mark.parametrize("first_line", examples("python"))
def test_python_examples_compile(first_line):
    compile(examples("python")[first_line], first_line, "exec")


@pytest.mark.parametrize(("path", "base", "name"), [
    ("recbole_soft/strategies/sft_equal.py", "Strategy", "SFT_equal"),
    ("recbole_soft/models/cosine_bigrec.py", None, "CosineBIGRec"),
])
def test_a_new_file_is_all_that_a_component_needs(tmp_path, path, base, name):
    folder = PACKAGE.parent / Path(path).parent
    for source in folder.glob("*.py"):
        (tmp_path / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    before = Registry("component", tmp_path, "anywhere", base).names()
    (tmp_path / Path(path).name).write_text(examples("python")[path], encoding="utf-8")
    registry = Registry("component", tmp_path, "anywhere", base)
    assert set(registry.names()) - set(before) == {name} and registry[name].summary.endswith(".")


def test_example_stage_weighs_every_title_alike():
    import torch

    from recbole_soft.llm.score import ResponseScores

    namespace = {"__name__": "example"}
    exec(examples("python")["recbole_soft/strategies/sft_equal.py"], namespace)
    stage = namespace["EqualTitles"]({}).stages()[0]

    class Context:
        class windows:
            targets = ([5, 1], [6, 7, 8, 1], [9, 1])

        config = {"title_length_exponent": 1.0}

    stage.context = Context
    assert stage.responses([0, 1, 2])["sft"] == list(Context.windows.targets)
    tokens = torch.tensor([2, 4, 2])
    nll = torch.tensor([2.0, 12.0, 4.0])
    halves = [stage.loss({"sft": ResponseScores(nll[part], tokens[part])}, {"sft": 8}, []).total
              for part in (slice(0, 2), slice(2, 3))]
    assert sum(halves).item() == pytest.approx((1 + 3 + 2) / 3)


def test_example_model_ranks_by_angle():
    from types import SimpleNamespace

    import torch

    namespace = {"__name__": "example"}
    exec(examples("python")["recbole_soft/models/cosine_bigrec.py"], namespace)
    table = torch.tensor([[10.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    model = SimpleNamespace(prompts=lambda interaction: interaction, answered_titles=lambda prompts: prompts,
                            title_vectors=SimpleNamespace(table=lambda: table, lookup=lambda titles: titles),
                            title_rows=torch.tensor([2, 0, 1]))
    scores = namespace["CosineBIGRec"].grounded_scores(model, torch.tensor([[1.0, 0.0]]))
    assert scores[0].argsort(descending=True).tolist() == [2, 1, 3, 0] and scores[0, 2] == 0


@pytest.mark.parametrize("is_plain", [False, True])
def test_scores_of_an_own_model_are_not_passed_by(is_plain):
    """Where ranks come straight from vectors, they are those of BIGRec's distances and of no other scores."""
    from types import SimpleNamespace

    import torch

    from recbole_soft.models.bigrec import BIGRec

    namespace = {"__name__": "example"}
    exec(examples("python")["recbole_soft/models/cosine_bigrec.py"], namespace)
    base = BIGRec if is_plain else namespace["CosineBIGRec"]
    table = torch.tensor([[10.0, 0.0], [0.0, 1.0], [3.0, 3.0]])

    class Bare(base):
        injection, title_rows = None, torch.tensor([2, 0, 1])
        options = {"ranking": "grounding", "fast_path": True}
        catalog = SimpleNamespace(unique_titles=["a", "b", "c"])
        title_vectors = SimpleNamespace(table=lambda: table, lookup=lambda titles: table[:1])

        def __init__(self):
            torch.nn.Module.__init__(self)

        def prompts(self, interaction):
            return []

        def answer(self, prompts, progress=None):
            return []

    ranks = Bare().target_ranks(None, torch.tensor([1]), None)
    assert (ranks is not None) == is_plain and (ranks is None or ranks.tolist() == [1])


def test_the_recipe_in_the_docs_is_a_recipe(tmp_path):
    from recbole_soft.benchmark.recipe import read_recipe

    text = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.split("```yaml\n", 1)[1].split("```", 1)[0], encoding="utf-8")
    assert len(read_recipe(tmp_path / "mine.yaml").entries) == 6


def test_example_schedule_steps():
    from recbole_soft import curriculum

    namespace = dict(vars(curriculum))
    exec(examples("python")["added to recbole_soft/curriculum.py"], namespace)
    step = namespace["Step"](step_epochs=2)
    assert [step.weight(curriculum.EpochSignal(epoch, 4)) for epoch in range(4)] == [1, 1, 0, 0]
    assert [setting.name for setting in step.settings] == ["step_epochs"]


def test_example_data_set_can_be_read():
    from recbole_soft.data.atomic import read_atomic
    from recbole_soft.data.catalog import ItemColumns, read_item_table

    block = next(body for line, body in examples("python").items() if line.startswith("writes dataset/records"))
    exec(block, {})
    rows = read_atomic(Path("dataset/records/records.inter"), ["user_id", "item_id", "timestamp"])
    items = read_item_table(Path("dataset/records/records.item"), ItemColumns())
    assert set(rows["item_id"]) == set(items.index) and items["category"].nunique() == 2
    assert min(rows["user_id"].value_counts().min(), rows["item_id"].value_counts().min()) >= 10


def test_example_shim_takes_the_warning_away(monkeypatch):
    import warnings

    import torch
    from recbole.trainer import trainer

    namespace = {"__name__": "example"}
    exec(examples("python")["recbole_soft/compat/grad_scaler.py"], namespace)
    monkeypatch.setattr(trainer, "amp", torch.cuda.amp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if namespace["is_needed"]():
            with pytest.raises(FutureWarning):
                trainer.amp.GradScaler(enabled=False)
        namespace["apply"]()
        assert not trainer.amp.GradScaler(enabled=False).is_enabled()
    assert trainer.amp.autocast is torch.cuda.amp.autocast


def test_example_template_ends_with_the_response_marker():
    from recbole_soft.prompts.template import PromptTemplate

    block = examples("yaml")["properties/prompt/music.yaml"]
    prompt = PromptTemplate.from_mapping("music", yaml.safe_load(block)).prompt(["Rumours", "Horses"])
    assert '"Rumours", "Horses"' in prompt and prompt.endswith("### Response:\n")
