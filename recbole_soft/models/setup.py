"""Opens what an LLM recommender needs, from settings: artefact store, template, language model, encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from tqdm import tqdm

from recbole_soft.artifacts import PARTS, ArtifactStore
from recbole_soft.config.yaml_files import load_yaml, properties_root
from recbole_soft.errors import DataError, ModelError, SettingError, nearest
from recbole_soft.llm.backbone import Backbone, LoadSettings, load_backbone
from recbole_soft.llm.tiny import CatalogText, TinySettings, build_tiny
from recbole_soft.parallel.group import first_before_others
from recbole_soft.parallel.launch import asks_for_shards
from recbole_soft.prompts.encode import PromptEncoder
from recbole_soft.prompts.template import PromptTemplate
from recbole_soft.resuming.checkpoints import Checkpoints

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
    # Small updates vanish in bfloat16 weights: whole models are trained in float32 unless the user says otherwise.
    dtype = "float32" if (config["dtype"], config["tuning"]) == ("auto", "full") else config["dtype"]
    if (dtype, config["tuning"]) == ("bfloat16", "full"):
        logger.warning("tuning = full in bfloat16: an update below 1/512 of a weight changes nothing; --dtype=float32 "
                       "keeps it, in twice the memory")
    load = LoadSettings(
        llm_path=path, device=config["device"], dtype=dtype, shard_model=config["shard_model"] or asks_for_shards(),
        **{key: config[key] for key in ("quantization", "attn_implementation", "pad_token",
                                        "trust_remote_code", "llm_revision")},
    )
    # From a hub the first process downloads; the others find the files then.
    backbone = load_backbone(load) if Path(path).is_dir() else first_before_others(lambda: load_backbone(load))
    if load.shard_model and not backbone.sharding:
        logger.warning("shard_model has no effect in one process")
    encoder = PromptEncoder(template, backbone.tokenizer, config["cutoff_len"])
    encoder.check_room()
    encoder = _within_positions(config, encoder, backbone.longest_input, dataset.catalog.unique_titles)
    logger.info("language model: %s, %.1f million parameters%s%s", path, backbone.parameter_count / 1e6,
                f", quantised to {config['quantization']}" if backbone.quantization else "",
                ", {layers_mb:g} MB of its layers in each of {processes} processes".format_map(backbone.sharding)
                if backbone.sharding else "")
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


def _within_positions(config, encoder: PromptEncoder, positions: int | None, titles: Sequence[str]) -> PromptEncoder:
    """The encoder with a cut-off that leaves room for the longest response in the model's positions."""
    longest_bytes = max(len(encoder.template.quoted(title).encode()) for title in titles)
    # A token is at least a byte: most models have room to spare, and the catalogue need not be tokenised.
    if positions is None or encoder.cutoff_len + longest_bytes + 2 <= positions:
        return encoder
    room = positions - max(map(len, encoder.responses(titles)))
    if encoder.cutoff_len <= room:
        return encoder
    if "cutoff_len" in config.external_config_dict:
        raise SettingError(f"cutoff_len={encoder.cutoff_len} is too long: the language model reads {positions} tokens, "
                           "response included", where="cutoff_len", remedy=f"--cutoff_len={room} or less")
    logger.warning("prompts are cut to %d tokens: the language model reads %d, response included", room, positions)
    config["cutoff_len"], encoder = room, replace(encoder, cutoff_len=room)
    try:
        encoder.check_room()
    except SettingError as error:
        raise ModelError(f"the language model reads {positions} tokens, too few for the words of the template "
                         f"'{encoder.template.name}', a title and a response", where="llm_path",
                         remedy="choose a model that reads more") from error
    return encoder


def _embedded_model(config, dataset, template: PromptTemplate, store: ArtifactStore) -> Path:
    names = {setting.name for setting in fields(TinySettings)}
    chosen = {name: config[f"tiny_{name}"] for name in names if config[f"tiny_{name}"] is not None}
    settings = TinySettings(**chosen)
    if settings.hidden_size % (2 * settings.heads):
        raise SettingError(
            f"tiny_hidden_size={settings.hidden_size} cannot be shared among tiny_heads={settings.heads}",
            where="tiny_hidden_size, tiny_heads",
            remedy=f"take a multiple of {2 * settings.heads}, for instance "
                   f"--tiny_hidden_size={2 * settings.heads * max(1, settings.hidden_size // (2 * settings.heads))}")
    company = [items - 1 for items in dataset.sequences_until_now()] if settings.company else []
    text = CatalogText(dataset.catalog.titles[1:], dataset.catalog.categories[1:], template, company)
    key = text.fingerprint(settings)

    def make(folder: Path) -> dict:
        saves = Checkpoints(folder / PARTS, config["checkpoint_seconds"], key)
        with tqdm(total=settings.steps, desc="Embedded LLM", unit="step", disable=not config["show_progress"]) as bar:
            return build_tiny(text, settings, folder, bar.update, saves)

    folder, reused = store.obtain("tiny-llm", key, make)
    source = "titles and training histories" if company else "the catalogue's text"
    logger.info("embedded LLM %s: %s", "reused" if reused else f"made from {source}", folder)
    return folder
