"""The folder of questions and answers, and the program that answers, without any language model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.distill_cli import EXPORT_OPTIONS, PROGRAM
from recbole_soft.engine_exchange import (
    PROTOCOL,
    Answer,
    Sampling,
    question_id,
    read_answers,
    read_export,
    write_export,
)
from recbole_soft.errors import DataError, SettingError
from tests.architecture.test_docs import known_settings

TEACHER = {"base": "b", "weights": "w", "scale": 16.0, "stop": [1]}
PROMPTS = {question_id(tokens): (tokens, f"text {tokens}") for tokens in ([5, 6], [5, 7], [5, 8])}
ABOUT = {"program": "answer_with_vllm.py", "tuning": "full", "weights": "sft", "model": "m", "dtype": "float32",
         "max_model_len": 20, "max_tokens": 4, "stop_token_ids": [1], "revision": None}
# vLLM in twelve lines: answers with the prompt's last token, once per sample.
ECHO = '''
__version__ = "echo"
class SamplingParams:
    def __init__(self, **arguments): vars(self).update(arguments)
class Output:
    cumulative_logprob, finish_reason = -1.5, "stop"
    def __init__(self, token, params): self.token_ids, self.text = (token, *params.stop_token_ids), str(token)
class Answered:
    def __init__(self, *outputs): self.outputs = outputs
class LLM:
    def __init__(self, **arguments): assert arguments["generation_config"] == "vllm" and arguments["max_num_seqs"] == 3
    def generate(self, prompts, params, lora_request):
        return [Answered(*[Output(p["prompt_token_ids"][-1], s)] * s.n) for p, s in zip(prompts, params)]
'''


@pytest.fixture
def folder(tmp_path) -> Path:
    """An export of three questions."""
    write_export(tmp_path, ABOUT, TEACHER, Sampling(), PROMPTS)
    (tmp_path / "sft").mkdir()
    shutil.copy(PROGRAM, tmp_path)
    return tmp_path


def answered(folder: Path, *names: str, key: str | None = None, answers: object = None, protocol: int = 1) -> None:
    """Appends a session with one line per name."""
    key = key or json.loads((folder / "engine.json").read_text())["key"]
    answers = [{"token_ids": [9, 1], "logprob": -1.0}] if answers is None else answers
    lines = [{"session": {"protocol": protocol, "key": key, "engine": "test"}},
             *({"id": name, "answers": answers} for name in names)]
    with open(folder / "answers.jsonl", "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def program(folder: Path, tmp_path: Path, *words: str, engine: str = ECHO) -> subprocess.CompletedProcess:
    """Runs the copied program on a bare interpreter: no site-packages, so nothing but the standard library."""
    (tmp_path / "bare" / "vllm" / "lora").mkdir(parents=True, exist_ok=True)
    (tmp_path / "bare" / "vllm" / "__init__.py").write_text(engine)
    (tmp_path / "bare" / "vllm" / "lora" / "__init__.py").touch()
    (tmp_path / "bare" / "vllm" / "lora" / "request.py").write_text("LoRARequest = None\n")
    command = [sys.executable, "-S", str(folder / PROGRAM.name), "--engine-args", '{"max_num_seqs": 3}', *words]
    return subprocess.run(command,
                          capture_output=True, text=True, env={"PATH": os.environ["PATH"],
                                                               "PYTHONPATH": str(tmp_path / "bare")})


def test_the_page_names_options_that_exist():
    page = (PROGRAM.parents[2] / "docs" / "vllm.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--([a-z]\w*(?:-\w+)*)", page))
    of_program = set(re.findall(r'add_argument\("--([\w-]+)"', PROGRAM.read_text(encoding="utf-8")))
    assert {"out", "from", "part", "self_distilled", "engine-args"} <= named
    assert named <= known_settings() | set(EXPORT_OPTIONS) | {"from"} | of_program
    assert f"`protocol` ({PROTOCOL})" in page


@settings(max_examples=25)
@given(prompts=st.lists(st.tuples(st.lists(st.integers(0, 99), min_size=1), st.text(st.characters(codec="utf-8"))),
                        max_size=4))
def test_any_question_survives_the_file(tmp_path_factory, prompts):
    folder = tmp_path_factory.mktemp("export")
    named = {question_id(tokens): (tokens, text) for tokens, text in prompts}
    written = write_export(folder, ABOUT, TEACHER, Sampling(3, 0.7, 0.9, 42), named)
    export = read_export(folder)
    assert export.ids == written.ids == tuple(named) and export.sampling == Sampling(3, 0.7, 0.9, 42)
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_bytes().split(b"\n") if line]
    assert [(line["prompt_token_ids"], line["prompt"]) for line in lines] == [tuple(pair) for pair in named.values()]


def test_key_tells_every_difference(tmp_path):
    def key(teacher=TEACHER, sampling=None, prompts=PROMPTS) -> str:
        return write_export(tmp_path, ABOUT, teacher, sampling or Sampling(), prompts).about["key"]

    keys = [key(), key({**TEACHER, "weights": "v"}), key(sampling=Sampling(1)), key(sampling=Sampling(1, seed=1)),
            key(sampling=Sampling(1, 0.5)), key(prompts=dict(list(PROMPTS.items())[:2]))]
    assert len(set(keys)) == len(keys) and key() == keys[0]


def test_a_changed_export_is_refused(folder):
    about = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**about, "sampling": {**about["sampling"], "seed": 5}}))
    with pytest.raises(DataError, match="do not belong together"):
        read_export(folder)
    (folder / "engine.json").write_text(json.dumps({**about, "protocol": 2}))
    with pytest.raises(DataError, match="protocol 2"):
        read_export(folder)
    (folder / "engine.json").unlink()
    with pytest.raises(DataError, match="no export"):
        read_export(folder)


def test_answers_are_kept_or_the_export_refused(folder):
    answered(folder, *PROMPTS)
    write_export(folder, ABOUT, TEACHER, Sampling(), PROMPTS)
    assert len(read_answers(read_export(folder)).by_id) == 3
    with pytest.raises(SettingError, match="other questions"):
        write_export(folder, ABOUT, TEACHER, Sampling(2), PROMPTS)
    assert read_export(folder).sampling == Sampling()


def test_missing_doubled_and_foreign_answers_are_counted_and_named(folder):
    first, second, third = PROMPTS
    answered(folder, first, "stranger", first)
    with pytest.raises(DataError) as error:
        read_answers(read_export(folder))
    assert (f"1 answered more than once ({first}); 1 not among the questions (stranger); "
            f"2 without an answer ({second}, {third})") in str(error.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"key": "another"}, "another export"), ({"protocol": 7}, "protocol 7"),
    ({"answers": []}, "0 answers where 1"), ({"answers": [{"token_ids": "text"}]}, "no answer of the form"),
    ({"answers": [{"token_ids": [-1]}]}, "no answer of the form"), ({"answers": 5}, "no answer of the form"),
    ({"answers": [{"token_ids": [3], "logprob": float("nan")}]}, "no answer of the form"),
])
def test_what_is_no_answer_to_these_questions_is_refused(folder, changes, message):
    answered(folder, *PROMPTS, **changes)
    with pytest.raises(DataError, match=message) as error:
        read_answers(read_export(folder))
    assert "answers.jsonl, line" in str(error.value)


def test_answers_without_a_session_and_lines_that_are_no_json_are_refused(folder):
    (folder / "answers.jsonl").write_text('{"id": "x", "answers": []}\n')
    with pytest.raises(DataError, match="no session"):
        read_answers(read_export(folder))
    (folder / "answers.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match="no JSON"):
        read_answers(read_export(folder))
    (folder / "answers.jsonl").unlink()
    with pytest.raises(DataError, match="no answers yet"):
        read_answers(read_export(folder))


def test_beams_and_answers_are_compared_alike():
    long, short = Answer((1, 2, 3, 4), -4.0), Answer((1, 2), -3.0)
    assert long.score(1.0) == -1.0 > short.score(1.0) == -1.5
    assert long.score(0.0) < short.score(0.0)


def test_program_needs_nothing_but_an_engine_and_goes_on_after_half_a_line(folder, tmp_path):
    first, second, third = PROMPTS
    answered(folder, second)
    with open(folder / "answers.jsonl", "a") as file:
        file.write('{"id": "' + third)
    done = program(folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 answered" in done.stdout
    answers = read_answers(read_export(folder))
    assert {name: of_name[0].token_ids for name, of_name in answers.by_id.items()} == {
        first: (6, 1), second: (9, 1), third: (8, 1)}
    assert [session["engine"] for session in answers.sessions] == ["test", "vllm"]
    assert answers.sessions[1] | {"key": ""} == {
        "protocol": 1, "key": "", "engine": "vllm", "version": "echo", "dtype": "float32", "model": str(folder / "sft")}
    before = (folder / "answers.jsonl").read_bytes()
    assert "answered already" in program(folder, tmp_path).stdout
    assert (folder / "answers.jsonl").read_bytes() == before


def test_parts_answer_everything_once(folder, tmp_path):
    answered(folder, list(PROMPTS)[2])
    for part in ("1/2", "2/2"):
        done = program(folder, tmp_path, f"--part={part}", "--batch=1")
        assert done.returncode == 0, done.stderr
    assert len(read_answers(read_export(folder)).by_id) == 3
    assert sorted(path.name for path in folder.glob("answers*")) == [
        "answers-1-of-2.jsonl", "answers-2-of-2.jsonl", "answers.jsonl"]


def test_program_refuses_with_a_remedy(folder, tmp_path):
    def refused(*words: str, **settings) -> str:
        done = program(folder, tmp_path, *words, **settings)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "pip install vllm" in refused(engine="raise ImportError('no vllm')")
    assert "leave out --model" in refused("--model=base")
    assert "is not K/N" in refused("--part=3/2")
    about = json.loads((folder / "engine.json").read_text())
    for changes, message in (({"weights": "../.."}, "there is no folder ../.."),
                             ({"tuning": "lora", "lora_rank": 600}, "ranks up to 512"), ({"requests": 4}, "3 of 4"),
                             ({"protocol": 9}, "protocol 9"), ({"key": "other"}, "another export")):
        answered(folder)
        (folder / "engine.json").write_text(json.dumps({**about, **changes}))
        assert message in refused()
        (folder / "answers.jsonl").unlink()
        (folder / "engine.json").write_text(json.dumps(about))


def test_two_programs_in_one_folder_are_refused(folder, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with open(folder / "answers.jsonl", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = program(folder, tmp_path)
    assert done.returncode == 2 and "another process" in done.stderr
