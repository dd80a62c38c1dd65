"""Opens what an LLM recommender needs, from settings: artefact store, template, language model, encoder."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from recbole_soft.artifacts import ArtifactStore
from recbole_soft.config.yaml_files import load_yaml, properties_root
from recbole_soft.errors import DataError, SettingError, nearest
from recbole_soft.llm.backbone import Backbone, LoadSettings, load_backbone
from recbole_soft.llm.tiny import CatalogText, TinySettings, build_tiny
from recbole_soft.prompts.encode import PromptEncoder
from recbole_soft.prompts.template import PromptTemplate

logger = logging.getLogger("recbole_soft")
TINY = "tiny"
DEFAULT_PROMPT = "item"


def artifact_store(config) -> ArtifactStore:
    """Where reusable results live."""
    return ArtifactStore(Path(config["artifacts_dir"] or Path(config["checkpoint_dir"]) / "artifacts"))


def open_backbone(config, dataset, store: ArtifactStore) -> tuple[Backbone, PromptEncoder]:
    """The language model and the encoder of its prompts.

    Raises:
        UserError: no titles, an unknown template, a model that cannot be loaded, a cut-off that is too short.
    """
    if dataset.catalog is None:
        raise DataError("the data set has no titles", where=dataset.dataset_name,
                        remedy="use recbole_soft's data set class (run_recbole_soft does), and a NAME.item with titles")
    template = read_template(config["prompt"] or DEFAULT_PROMPT)
    path = config["llm_path"] or str(_embedded_model(config, dataset, template, store))
    backbone = load_backbone(LoadSettings(
        llm_path=path, device=config["device"],
        **{key: config[key] for key in ("dtype", "quantization", "attn_implementation", "pad_token",
                                        "trust_remote_code", "llm_revision")},
    ))
    encoder = PromptEncoder(template, backbone.tokenizer, config["cutoff_len"])
    encoder.check_room()
    logger.info("language model: %s, %.1f million parameters", path, backbone.parameter_count / 1e6)
    return backbone, encoder


def read_template(name: str) -> PromptTemplate:
    """A template of properties/prompt.

    Raises:
        SettingError: there is none of that name.
    """
    folder = properties_root() / "prompt"
    known = [path.stem for path in folder.glob("*.yaml")]
    if name not in known:
        raise SettingError(f"there is no prompt template '{name}'", where=str(folder), remedy=nearest(name, known))
    return PromptTemplate.from_mapping(name, load_yaml(folder / f"{name}.yaml").values)


def _embedded_model(config, dataset, template: PromptTemplate, store: ArtifactStore) -> Path:
    names = {setting.name for setting in fields(TinySettings)}
    chosen = {name: config[f"tiny_{name}"] for name in names if config[f"tiny_{name}"] is not None}
    settings = TinySettings(**chosen)
    text = CatalogText(dataset.catalog.titles[1:], dataset.catalog.categories[1:], template)

    def make(folder: Path) -> dict:
        with tqdm(total=settings.steps, desc="Embedded LLM", unit="step", disable=not config["show_progress"]) as bar:
            return build_tiny(text, settings, folder, bar.update)

    folder, reused = store.obtain("tiny-llm", text.fingerprint(settings), make)
    logger.info("embedded LLM %s: %s", "reused" if reused else "made from the catalogue's text", folder)
    return folder
