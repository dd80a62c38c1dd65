"""The `distill` subcommand: SOFT's self-distillation by an engine outside, such as vLLM, through a folder of files.

`export` obtains the SFT stage as a run would (from the store, from `sft_adapter`, or by training it) and writes its
weights and the training prompts. The engine answers. `import` checks the answers and makes the self-distilled set;
a run takes it with `self_distilled=FOLDER`. Test windows are never read.
"""

from __future__ import annotations

import logging
import math
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import make_folder
from recbole_soft.config.sources import split_config_files, user_settings
from recbole_soft.config.validate import validate
from recbole_soft.config.words import parse_words
from recbole_soft.engine_exchange import Export, Sampling, read_answers, read_export
from recbole_soft.errors import DataError, SettingError, nearest
from recbole_soft.registry import LLM_FAMILY, model_family, split_name

logger = logging.getLogger("recbole_soft")
PROGRAM = Path(__file__).parent / "engines" / "answer_with_vllm.py"
EXPORT_OPTIONS = {"out": "", "samples": "0", "temperature": "1.0", "top_p": "1.0"}
COMMAND = "python run_recbole_soft.py"
EXAMPLE = f"{COMMAND} distill export --model=BIGRec_SOFT --dataset=game --llm=llama3.2-3b --out=exchange"
# A file from elsewhere must not have code run; the user says so anew.
NOT_TAKEN_OVER = ("trust_remote_code",)
HELP = f"""SOFT's self-distillation by an engine outside, such as vLLM, through a folder of files (docs/vllm.md).

distill export    trains SFT or finds it, and writes its weights and the training prompts
  --out=FOLDER      where to write
  --samples=N       answers per prompt: 0 is one greedy answer (default: {EXPORT_OPTIONS["samples"]})
  --temperature=T   of drawn answers (default: {EXPORT_OPTIONS["temperature"]})
  --top_p=P         of drawn answers (default: {EXPORT_OPTIONS["top_p"]}); their seed is the run's
  --model=, --dataset= and all settings of the run

distill import    checks the engine's answers and makes the self-distilled set
  --from=FOLDER     what export wrote and the engine answered
  settings          in place of the export's, for instance --data_path=, --engine_pick=all

example:
  {EXAMPLE}
  python exchange/answer_with_vllm.py              in vLLM's environment
  {COMMAND} distill import --from=exchange
"""


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code.

    Raises:
        UserError: an option, a setting, the folder or the answers cannot be used.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    actions: dict[str, Callable[[dict[str, str]], str]] = {"export": _export, "import": _import}
    if argv[0] not in actions:
        raise SettingError(f"distill {argv[0]}: there is no such action", "command line", nearest(argv[0], actions))
    sys.stdout.write(actions[argv[0]](parse_words(argv[1:])) + "\n")
    return 0


# ---- export ----------------------------------------------------------------------------------------
def _export(words: dict[str, str]) -> str:
    options = {name: words.pop(name, default) for name, default in EXPORT_OPTIONS.items()}
    if not options["out"]:
        raise SettingError("--out is missing", "command line", EXAMPLE)
    model, dataset, settings = _settings_of(words)
    sampling = _sampling(options)
    out = make_folder(Path(options["out"]).expanduser(), "out")
    with _opened(model, dataset, settings, out) as (trainer, splits):
        from recbole_soft.strategies.engine_answers import WEIGHTS, ask

        context = _context(trainer, splits[0].dataset)
        trainer.fit(*splits[:2], show_progress=trainer.config["show_progress"])
        seeded = Sampling(**{**vars(sampling), "seed": trainer.config["seed"]}) if sampling.samples else sampling
        export = ask(context, out, seeded, {
            "program": PROGRAM.name, "run": {"model": model, "dataset": dataset, "settings": settings}})
        # Only now is it known that the folder holds no answers of other weights.
        shutil.rmtree(out / WEIGHTS, ignore_errors=True)
        context.model.weights.save(WEIGHTS, out / WEIGHTS)
        if trainer.config["tuning"] == "full":
            context.model.backbone.tokenizer.hf.save_pretrained(str(out / WEIGHTS))
        shutil.copyfile(PROGRAM, out / PROGRAM.name)
        asked, windows = len(export.ids), len(context.windows)
    needed = f" and the base model is ({export.about['model']})" if export.about["tuning"] == "lora" else ""
    how = f"{sampling.samples} drawn answers each" if sampling.samples else "one greedy answer each"
    return (f"{asked:,} distinct prompts of {windows:,} training windows, {how}: {out}\n"
            f"next, where vLLM is installed{needed}:\n"
            f"  python {shlex.quote(str(out / PROGRAM.name))}\n"
            f"then here:\n  {COMMAND} distill import --from={shlex.quote(str(out))}")


def _settings_of(words: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
    """Model, data set and typed settings of a command line, checked before anything heavy is imported."""
    files = split_config_files(words.pop("config_files", ""))
    settings, sources = user_settings(files, {}, words)
    model, dataset = (settings.pop(name, None) for name in ("model", "dataset"))
    if not (isinstance(model, str) and isinstance(dataset, str)):
        raise SettingError(f"--{'dataset' if model else 'model'} is missing", "command line", EXAMPLE)
    _check_model(model)
    typed = validate(settings, sources, model, dataset)
    if typed.get("self_distilled"):
        raise SettingError("self_distilled names answers that are there already", "self_distilled",
                           "leave it out: export asks for new ones")
    return model, dataset, typed


def _check_model(model: str) -> None:
    if model_family(model) != LLM_FAMILY or "self_distilled" not in {
            setting.name for setting in split_name(model)[1].settings}:
        raise SettingError(f"{model} trains on no self-distilled set", f"--model={model}",
                           "for instance --model=BIGRec_SOFT")


def _sampling(options: Mapping[str, str]) -> Sampling:
    numbers = {}
    for name, low, high in (("samples", 0, 1024), ("temperature", 0.0, 100.0), ("top_p", 0.0, 1.0)):
        try:
            value = type(low)(options[name])
        except ValueError:
            value = math.nan
        if not low <= value <= high or (name != "samples" and value == 0):
            kind = f"an integer from {low} to {high}" if name == "samples" else f"a number above {low:g}, to {high:g}"
            raise SettingError(f"{name} = {options[name]}: must be {kind}", "command line",
                               "--samples=0 gives one greedy answer" if name == "temperature" else None)
        numbers[name] = value
    changed = [name for name in ("temperature", "top_p") if options[name] != EXPORT_OPTIONS[name]]
    if not numbers["samples"] and changed:
        raise SettingError(f"{changed[0]} has no effect on a greedy answer", "command line", "add --samples=N")
    return Sampling(**numbers) if numbers["samples"] else Sampling()


# ---- import ----------------------------------------------------------------------------------------
def _import(words: dict[str, str]) -> str:
    if not words.get("from"):
        raise SettingError("--from is missing", "command line", f"{COMMAND} distill import --from=FOLDER")
    folder = Path(words.pop("from")).expanduser()
    export = read_export(folder)
    answers = read_answers(export)  # before anything heavy is opened; read again by whoever uses them
    run = _run_of(export)
    taken = {key: value for key, value in run["settings"].items() if key not in NOT_TAKEN_OVER}
    model, dataset = words.pop("model", run["model"]), words.pop("dataset", run["dataset"])
    _check_model(model)
    settings, sources = user_settings(split_config_files(words.pop("config_files", "")),
                                      taken | {"self_distilled": str(folder)}, words)
    typed = validate(settings, sources, model, dataset)
    with _opened(model, dataset, typed, folder) as (trainer, splits):
        from recbole_soft.distill import summarise
        from recbole_soft.strategies.engine_answers import WEIGHTS
        from recbole_soft.strategies.soft import obtain_distilled

        context = _context(trainer, splits[0].dataset)
        stage = trainer.stages[0]
        is_kept = trainer.stage_weights.restore(
            stage, trainer.stage_weights.key(stage, context.windows, splits[1]), splits[0].dataset) is not None
        if not is_kept:
            context.model.weights.create(stage.name, trainer.config["seed"])
            context.model.weights.load(stage.name, folder / WEIGHTS)
        figures = summarise(obtain_distilled(context))
        made = trainer.notes["self_distilled_set"]["file"]
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
    again = typed | ({} if is_kept else {"sft_adapter": str(folder / WEIGHTS)})
    command = [*COMMAND.split(), f"--model={model}", f"--dataset={dataset}",
               *(f"--{key}={_word(value)}" for key, value in again.items())]
    engines = ", ".join(dict.fromkeys(
        " ".join(str(session[name]) for name in ("engine", "version", "dtype") if name in session)
        for session in answers.sessions))
    how = f"{export.sampling.samples} drawn, {trainer.config['engine_pick']}" if export.sampling.samples else "greedy"
    return (f"answers to {len(export.ids):,} distinct prompts by {engines} ({how})\n{shown}\n"
            f"self-distilled set: {made}\ntrain on it:\n  {shlex.join(command)}")


def _run_of(export: Export) -> dict[str, Any]:
    """Model, data set and settings of the run that asked."""
    run = export.about.get("run")
    kinds = {"model": str, "dataset": str, "settings": dict}
    if not (isinstance(run, dict) and all(isinstance(run.get(name), kind) for name, kind in kinds.items())):
        raise DataError("engine.json does not say which run asked", where=str(export.folder), remedy="export again")
    return run


def _word(value: Any) -> str:
    return "[" + ",".join(map(_word, value)) + "]" if isinstance(value, list) else str(value)


# ---- what both open --------------------------------------------------------------------------------
@contextmanager
def _opened(model: str, dataset: str, settings: Mapping[str, Any], folder: Path) -> Iterator[tuple[Any, Any]]:
    """A trainer of the SFT stage alone, and the splits; its messages go to the terminal and into the folder."""
    from recbole_soft import plugin
    from recbole_soft.run_log import log_to, quiet_libraries, tensorboard_in

    quiet_libraries()
    plugin.install()
    from recbole.data import data_preparation
    from recbole.utils import get_model, init_seed

    from recbole_soft.config.soft_config import SoftConfig
    from recbole_soft.data.dataset import SoftDataset
    from recbole_soft.data.sources import find_dataset
    from recbole_soft.run import fit_cutoffs
    from recbole_soft.strategies.engine_answers import check_askable
    from recbole_soft.trainer.llm_trainer import LLMTrainer

    config = SoftConfig(model, dataset, config_dict=settings)
    check_askable(config, get_model(model))
    with log_to(folder / "distill.log", config["state"]), tempfile.TemporaryDirectory() as left, \
            tensorboard_in(Path(left)):
        config["run_folder"] = left
        init_seed(config["seed"], config["reproducibility"])
        find_dataset(dataset, str(Path(config["data_path"]).parent))
        data = SoftDataset(config)
        fit_cutoffs(config, data.item_num)
        splits = data_preparation(config, data)
        trainer = LLMTrainer(config, get_model(model)(config, splits[0].dataset))
        trainer.stages = trainer.stages[:1]
        yield trainer, splits


def _context(trainer: Any, train: Any) -> Any:
    """What the SOFT stage would be given, with the SFT weights switched on."""
    from recbole_soft.strategies.base import StageContext

    model = trainer.model
    return StageContext(
        model=model, windows=model.texts_of(train), config=trainer.config, store=model.store,
        keys=trainer.stage_weights.keys, switched_to=lambda name: nullcontext(), note=trainer.notes.__setitem__,
        progress=lambda title, total: nullcontext(lambda done: None))
