"""`distill export`, an engine that stands in for vLLM, `distill import`, and a run that trains on the answers."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_soft import cli
from recbole_soft.curriculum import make_schedule
from recbole_soft.distill_cli import PROGRAM
from recbole_soft.engine_exchange import read_export
from recbole_soft.errors import DataError
from recbole_soft.run import run_recbole_soft
from recbole_soft.strategies.engine_answers import draw
from recbole_soft.strategies.soft import SelfOptimisedStage
from recbole_soft.trainer.llm_trainer import LLMTrainer

STAND_INS = Path(__file__).parents[1] / "stand_ins"


@pytest.fixture
def vllm(monkeypatch) -> Callable[..., int]:
    """Runs the program of a folder with the stand-in; `vllm.engine` is the stand-in's module."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    engine = importlib.import_module("vllm")
    monkeypatch.setattr(engine.LLM, "fails_after", None)
    spec = importlib.util.spec_from_file_location("answer_with_vllm", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def answer(folder: Path, *words: str) -> int:
        return module.main([str(folder), *words])

    answer.engine = engine.LLM
    yield answer
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def distill(toy_settings, capsys) -> Callable[..., tuple[int, str]]:
    """Runs `distill ACTION`; an export gets the settings of a toy run. Gives exit code and what was said."""

    def call(action: str, model: str = "BIGRec_SOFT", **words) -> tuple[int, str]:
        if action == "export":
            words = {"model": model, "dataset": "toy", **toy_settings(epochs=1, num_beams=1), **words}
        code = cli.main(["distill", action, *(f"--{key}={value}" for key, value in words.items())])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def lines_of(path: Path | str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def note_of(result: dict) -> dict:
    return result["record"]["notes"]["self_distilled_set"]


def test_greedy_answers_of_an_engine_train_exactly_as_one_beam_of_ours(distill, vllm, toy_settings, tmp_path,
                                                                       monkeypatch):
    folder = tmp_path / "exchange"
    code, said = distill("export", out=folder)
    assert code == 0 and f"python {folder / PROGRAM.name}" in said and "one greedy answer each" in said
    export = read_export(folder)
    assert len(export.ids) < export.about["windows"] == 64, "equal prompts are asked once"
    code, said = distill("import", **{"from": folder})
    assert code == 2 and "no answers yet" in said
    with monkeypatch.context() as patched, pytest.raises(DataError, match="no answers yet"):
        patched.setattr(LLMTrainer, "_obtain_stage", lambda *_, **__: pytest.fail("something is trained before"))
        run_recbole_soft("BIGRec_SOFT", "toy", config_dict=toy_settings() | {"self_distilled": str(folder)})
    assert vllm(folder) == 0
    assert vllm.engine.arguments["model"] == str(folder / "sft") and not vllm.engine.arguments["enable_lora"]

    code, said = distill("import", **{"from": folder})
    assert code == 0 and f"--self_distilled={folder}" in said and "--model=BIGRec_SOFT" in said
    settings = toy_settings(epochs=1, num_beams=1)
    engine = run_recbole_soft("BIGRec_SOFT", "toy", config_dict=settings | {"self_distilled": str(folder)})
    ours = run_recbole_soft("BIGRec_SOFT", "toy", config_dict=settings)

    assert note_of(engine)["reused"], "import made the very set that the run looks for"
    assert note_of(engine)["engine"]["sessions"][0]["version"] == "0.0-stand-in"
    assert note_of(engine)["engine"]["sampling"]["samples"] == 0 and note_of(ours)["engine"] is None
    assert note_of(engine)["file"] != note_of(ours)["file"], "a set from elsewhere is never taken for our own"
    assert lines_of(note_of(engine)["file"]) == lines_of(note_of(ours)["file"])
    assert "BIGRec SOFT, engine's answers" in engine["table"] and "engine" not in ours["table"]
    losses = [[row["loss_total"] for row in result["record"]["curves"]] for result in (engine, ours)]
    assert losses[0] == losses[1]
    metrics = [[row["metrics"] for row in result["record"]["results"]] for result in (engine, ours)]
    assert metrics[0] == metrics[1]

    code, said = distill("import", **{"from": folder, "learning_rate": 0.01, "sft_adapter": folder / "sft"})
    assert code == 0, "the exported weights themselves are recognised, however the run came by them: " + said
    weights = (folder / "sft" / "model.safetensors").read_bytes()
    code, said = distill("export", out=folder, learning_rate=0.01)
    assert code == 2 and "answers to other questions" in said
    assert (folder / "sft" / "model.safetensors").read_bytes() == weights, "answers keep the weights that gave them"
    code, said = distill("import", **{"from": folder, "prompt": "movie"})
    assert code == 2 and "the prompts of the training windows changed since the export" in said
    code, said = distill("import", **{"from": folder, "dtype": "bfloat16"})
    assert code == 2 and "the base model (or its precision) changed since the export" in said
    answers = (folder / "answers.jsonl").read_text().split("\n")
    (folder / "answers.jsonl").write_text("\n".join([*answers[:-3], answers[1], ""]))
    code, said = distill("import", **{"from": folder})
    assert code == 2 and "1 answered more than once" in said and "2 without an answer" in said


def test_drawn_answers_of_an_adapter_survive_an_interruption(distill, vllm, toy_settings, tmp_path):
    folder, lora = tmp_path / "exchange", {"tuning": "lora", "lora_r": 4, "train_sample": 20, "max_new_tokens": 5}
    code, said = distill("export", out=folder, samples=3, temperature=1.5, **lora)
    assert code == 0, said
    about = read_export(folder).about
    assert (folder / "sft" / "adapter_config.json").is_file() and about["lora_rank"] == 4
    assert f"the base model is ({about['model']})" in said and Path(about["model"]).is_dir()
    vllm.engine.fails_after = 2
    with pytest.raises(RuntimeError, match="killed"):
        vllm(folder, "--batch=5", "--dtype=float32")
    interrupted = lines_of(folder / "answers.jsonl")
    assert sum("id" in line for line in interrupted) == 10
    vllm.engine.fails_after = None
    assert vllm(folder, "--batch=5", "--dtype=float32") == 0
    resumed = lines_of(folder / "answers.jsonl")
    assert resumed[: len(interrupted)] == interrupted and vllm.engine.arguments["max_lora_rank"] == 8
    (folder / "answers.jsonl").unlink()
    assert vllm(folder, "--dtype=float32") == 0
    at_once = lines_of(folder / "answers.jsonl")
    assert [line for line in resumed if "id" in line] == [line for line in at_once if "id" in line]
    drawn = {line["id"]: line["answers"] for line in at_once if "id" in line}
    assert any(len({answer["text"] for answer in answers}) > 1 for answers in drawn.values())

    kept_answers = (folder / "answers.jsonl").read_text()
    silent = [line if "session" in line else {**line, "answers": [{**one, "logprob": None} for one in line["answers"]]}
              for line in at_once]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in silent))
    code, said = distill("import", **{"from": folder})
    assert code == 2 and "no log-probabilities for 1" in said and "--engine_pick=all" in said
    (folder / "answers.jsonl").write_text(kept_answers)

    settings = toy_settings(epochs=2, num_beams=1, self_distilled=str(folder), **lora)
    with pytest.raises(DataError, match="the SFT weights changed since the export") as refused:
        run_recbole_soft("BIGRec_SOFT", "toy", config_dict=settings | {"learning_rate": 0.01})
    assert f"--sft_adapter={folder / 'sft'}" in refused.value.remedy
    settings["sft_adapter"] = str(folder / "sft")
    best = run_recbole_soft("BIGRec_SOFT", "toy", config_dict=settings)
    kept = {line["prompt"]: line["answer"] for line in lines_of(note_of(best)["file"])}
    for question in lines_of(folder / "requests.jsonl"):
        first = max(drawn[question["id"]], key=lambda one: one["logprob"] / len(one["token_ids"]))
        assert kept[question["prompt"]] == first["text"]
    every = run_recbole_soft("BIGRec_SOFT", "toy", config_dict=settings | {"engine_pick": "all"})
    rows = lines_of(note_of(every)["file"])
    assert len(rows) == 3 * 20 and note_of(every)["engine"]["pick"] == "all"
    assert [row["window_id"] for row in rows[:20]] == [row["window_id"] for row in rows[20:40]]
    losses = [[row["loss_sdft"] for row in result["record"]["curves"] if row["stage"] == "soft"]
              for result in (best, every)]
    assert losses[0] != losses[1]


def test_draws_depend_on_seed_and_epoch_alone_and_favour_no_answer():
    choices = [[[answer, window] for window in range(400)] for answer in range(4)]
    drawn = draw(choices, seed=42, epoch=3)
    assert drawn == draw(choices, seed=42, epoch=3) != draw(choices, seed=42, epoch=4)
    assert drawn != draw(choices, seed=43, epoch=3)
    assert [window for _, window in drawn] == list(range(400))
    assert np.bincount([answer for answer, _ in drawn]).min() > 60


@pytest.mark.parametrize(("words", "message"), [
    ({"model": "LLaRA_SOFT"}, "prompts of LLaRA hold items as vectors"),
    ({"decoding": "constrained"}, "knows no catalogue"), ({"quantization": "4bit", "tuning": "lora"}, "its own way"),
    ({"model": "BIGRec_SFT"}, "BIGRec_SFT trains on no self-distilled set"),
    ({"model": "SASRec"}, "SASRec trains on no self-distilled set"), ({"out": ""}, "--out is missing"),
    ({"samples": "2.5"}, "samples = 2.5: must be an integer from 0"), ({"samples": 2, "temperature": 0}, "above 0"),
    ({"top_p": 0.5}, "top_p has no effect on a greedy answer"), ({"self_distilled": "."}, "self_distilled"),
    ({"sample": 3}, "sample = 3"),
])
def test_exports_that_make_no_sense_are_refused_before_anything_is_trained(distill, tmp_path, words, message):
    code, said = distill("export", **{"out": tmp_path / "exchange", **words})
    assert code == 2 and message in said and "Traceback" not in said, said
    assert "stage 'sft'" not in said and not (tmp_path / "exchange" / "engine.json").exists()


def test_settings_that_name_no_answers_are_refused(toy_settings, tmp_path, capsys):
    for changes, message in (({"self_distilled": tmp_path}, "there is no engine.json in this folder"),
                             ({"engine_pick": "all"}, "engine_pick has no effect without self_distilled")):
        words = {"model": "BIGRec_SOFT", "dataset": "toy", **toy_settings(), **changes}
        assert cli.main([f"--{key}={value}" for key, value in words.items()]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["distill", "exprot"]) == 2 and "did you mean export?" in capsys.readouterr().err
    assert cli.main(["distill", "--help"]) == 0 and "distill import" in capsys.readouterr().out


def test_code_of_a_checkpoint_is_not_run_because_a_file_says_so(distill, tmp_path):
    folder = tmp_path / "exchange"
    distill("export", out=folder)
    about = json.loads((folder / "engine.json").read_text())
    about["run"]["settings"]["trust_remote_code"] = True
    (folder / "engine.json").write_text(json.dumps(about))
    (folder / "answers.jsonl").write_text("\n".join(
        json.dumps(line) for line in ({"session": {"protocol": 1, "key": about["key"], "engine": "hand"}},
                                      *({"id": name, "answers": [{"token_ids": [5, 6]}]}
                                        for name in read_export(folder).ids))) + "\n")
    code, said = distill("import", **{"from": folder})
    assert code == 0 and "trust_remote_code" not in said and "by hand (greedy)" in said
    answers = (folder / "answers.jsonl").read_text()
    (folder / "answers.jsonl").write_text(answers.replace("[5, 6]", "[5, 400000]", 1))
    code, said = distill("import", **{"from": folder})
    assert code == 2 and "tokens beyond the vocabulary" in said
    (folder / "answers.jsonl").write_text(answers)
    (folder / "engine.json").write_text(json.dumps({**about, "run": None}))
    code, said = distill("import", **{"from": folder})
    assert code == 2 and "does not say which run asked" in said


def test_a_stage_that_goes_on_has_the_draw_of_its_epoch():
    def stage() -> SelfOptimisedStage:
        made = SelfOptimisedStage(make_schedule("constant", {}), "raw", 4, None, "SOFT")
        made.context = SimpleNamespace(config={"seed": 5})
        made._choices = [[[answer, window] for window in range(40)] for answer in range(3)]
        made._distilled = made._choices[0]
        return made

    first, second = stage(), stage()
    drawn = []
    for epoch in range(3):
        first.begin_epoch(epoch, 3)
        drawn.append(first._distilled)
    assert drawn[0] != drawn[1] != drawn[2], "every epoch has its own draw"
    second.restore(json.loads(json.dumps(first.state())))
    assert second._distilled == drawn[2]
