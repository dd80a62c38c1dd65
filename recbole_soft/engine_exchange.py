"""The folder in which questions go to an engine that is no part of this package, and answers come back.

    engine.json      what is asked of whom: model, tuned weights, sampling, stop tokens (written here)
    requests.jsonl   one line per distinct prompt: id, token ids, text for readers (written here)
    answers*.jsonl   lines of sessions and of answers (written by the engine)

Ids are hashes of the prompts, and every session names the key of the export, so that answers to other questions,
or of another model, cannot be taken for these. Knows files and checks, neither models nor engines.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import content_key, read_json, write_json, write_text
from recbole_soft.errors import DataError, SettingError

PROTOCOL = 1
ENGINE_FILE, REQUESTS_FILE, ANSWERS_FILES = "engine.json", "requests.jsonl", "answers*.jsonl"
SHOWN_IDS = 3


@dataclass(frozen=True)
class Sampling:
    """How an engine answers.

    Attributes:
        samples: 0 for the one greedy answer, n > 0 for n drawn ones.
        temperature, top_p, seed: of drawn answers.
    """

    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def answers(self) -> int:
        """Answers per question."""
        return max(1, self.samples)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        token_ids: new tokens, with the stop token if it ended there.
        logprob: sum of the tokens' log-probabilities in nats; None if the engine does not say.
    """

    token_ids: tuple[int, ...]
    logprob: float | None

    def score(self, length_penalty: float) -> float:
        """Log-probability / length ** length_penalty, as beams are compared."""
        return (-math.inf if self.logprob is None else self.logprob) / max(1, len(self.token_ids)) ** length_penalty


@dataclass(frozen=True)
class Export:
    """Questions as they were written.

    Attributes:
        folder: where they lie.
        about: engine.json.
        ids: of the questions, in the order of the file.
    """

    folder: Path
    about: Mapping[str, Any]
    ids: tuple[str, ...]

    @property
    def sampling(self) -> Sampling:
        return Sampling(**self.about["sampling"])


@dataclass(frozen=True)
class Answers:
    """Every question's answers.

    Attributes:
        by_id: one or more answers per question.
        sessions: what the engine said about itself, once per start.
        fingerprint: hash of the answers.
    """

    by_id: Mapping[str, tuple[Answer, ...]]
    sessions: tuple[Mapping[str, Any], ...]
    fingerprint: str = field(default="")


def question_id(prompt: Sequence[int]) -> str:
    """Name of a prompt, the same wherever and whenever it is asked."""
    return content_key(prompt=list(prompt))


def export_key(teacher: Mapping[str, Any], sampling: Sampling, ids: Sequence[str]) -> str:
    """Hash of all that decides the answers: who is asked, what, and how."""
    return content_key(protocol=PROTOCOL, teacher=dict(teacher), sampling=asdict(sampling), ids=sorted(ids))


def write_export(folder: Path, about: Mapping[str, Any], teacher: Mapping[str, Any], sampling: Sampling,
                 prompts: Mapping[str, tuple[Sequence[int], str]]) -> Export:
    """Writes questions; answers to the very same ones stay.

    Args:
        folder: exists.
        about: what an engine has to know beside the rest.
        teacher: everything by which the model can be told from another.
        sampling: how to answer.
        prompts: token ids and text of every distinct prompt, by `question_id`.

    Raises:
        SettingError: the folder holds answers to other questions.
    """
    key = export_key(teacher, sampling, list(prompts))
    if any(folder.glob(ANSWERS_FILES)) and _key_of(folder) != key:
        raise SettingError("this folder holds an engine's answers to other questions", where=str(folder),
                           remedy="give another folder: --out=FOLDER, or remove its answers")
    lines = [json.dumps({"id": name, "prompt_token_ids": list(tokens), "prompt": text}, ensure_ascii=False) + "\n"
             for name, (tokens, text) in prompts.items()]
    write_text(folder / REQUESTS_FILE, "".join(lines))
    written = {"protocol": PROTOCOL, "key": key, "requests": len(prompts), "sampling": asdict(sampling),
               "teacher": dict(teacher), **about}
    write_json(folder / ENGINE_FILE, written)
    return Export(folder, written, tuple(prompts))


def read_export(folder: Path) -> Export:
    """Reads what `write_export` wrote.

    Raises:
        DataError: no export, another protocol, or files that do not belong together.
    """
    path = folder / ENGINE_FILE
    try:
        about = read_json(path)
        protocol = about["protocol"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("there is no export for an engine in this folder", where=str(path),
                        remedy="python run_recbole_soft.py distill export --help") from error
    if protocol != PROTOCOL:
        raise DataError(f"the folder follows protocol {protocol}, this version of recbole_soft protocol {PROTOCOL}",
                        where=str(path), remedy="export again")
    try:
        ids = tuple(str(entry["id"]) for _, entry in _entries(folder / REQUESTS_FILE))
        is_whole = about["key"] == export_key(about["teacher"], Sampling(**about["sampling"]), ids)
    except (OSError, KeyError, TypeError) as error:
        raise DataError(f"the questions cannot be read: {error}", where=str(folder), remedy="export again") from error
    if not is_whole:
        raise DataError(f"{ENGINE_FILE} and {REQUESTS_FILE} do not belong together: one of them was changed",
                        where=str(folder), remedy="bring back the files of the export, or export again")
    return Export(folder, about, ids)


def read_answers(export: Export) -> Answers:
    """Every question's answers, each exactly once.

    Raises:
        DataError: answers that are missing, doubled, foreign, damaged, or of another export.
    """
    files = sorted(export.folder.glob(ANSWERS_FILES))
    if not files:
        raise DataError("there are no answers yet", where=str(export.folder), remedy=_go_on(export))
    found: dict[str, tuple[Answer, ...]] = {}
    counts: Counter[str] = Counter()
    sessions: list[Mapping[str, Any]] = []
    for file in files:
        of_file = len(sessions)
        for number, entry in _entries(file, is_growing=True):
            if "session" in entry:
                sessions.append(_checked_session(entry["session"], export, file, number))
                continue
            if len(sessions) == of_file:
                raise DataError("the first line is no session: who answered is unknown", where=f"{file}, line 1",
                                remedy='begin with {"session": {"protocol": 1, "key": KEY, "engine": NAME, ...}}')
            name, answers = _checked_answers(entry, export.sampling.answers, file, number)
            counts[name] += 1
            found[name] = answers
    _check_complete(counts, export)
    return Answers(found, tuple(sessions), content_key(answers=sorted(
        (name, [(list(answer.token_ids), answer.logprob) for answer in of_name]) for name, of_name in found.items())))


def _key_of(folder: Path) -> str | None:
    try:
        return read_json(folder / ENGINE_FILE)["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entries(path: Path, is_growing: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines of JSON with their numbers. Of a growing file the last line may still be half there: it is left out."""
    lines = path.read_bytes().split(b"\n")
    if is_growing:
        lines[-1] = b""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"this line is no JSON: {error}", where=f"{path}, line {number}",
                            remedy="remove the line; what it answered will be asked again") from error
        if not isinstance(entry, dict):
            raise DataError("this line is no JSON object", where=f"{path}, line {number}", remedy="remove the line")
        yield number, entry


def _checked_session(session: Any, export: Export, file: Path, number: int) -> Mapping[str, Any]:
    place = f"{file}, line {number}"
    if not isinstance(session, dict) or not {"protocol", "key", "engine"} <= session.keys():
        raise DataError("a session has to say protocol, key and engine", where=place, remedy="see docs/vllm.md")
    if session["protocol"] != PROTOCOL:
        raise DataError(f"answered by protocol {session['protocol']}, not {PROTOCOL}", where=place,
                        remedy="use the program that lies in the folder of the export")
    if session["key"] != export.about["key"]:
        raise DataError("these are answers to another export: other questions, another model or other sampling",
                        where=place, remedy=f"move this file away; {_go_on(export)}")
    return session


def _checked_answers(entry: dict[str, Any], count: int, file: Path, number: int) -> tuple[str, tuple[Answer, ...]]:
    try:
        name = entry["id"]
        answers = tuple(Answer(tuple(answer["token_ids"]), answer.get("logprob")) for answer in entry["answers"])
        are_tokens = all(type(token) is int and token >= 0 for answer in answers for token in answer.token_ids)
        are_numbers = all(answer.logprob is None or (type(answer.logprob) in (int, float)
                                                     and math.isfinite(answer.logprob)) for answer in answers)
    except (KeyError, TypeError, AttributeError):
        name, answers, are_tokens, are_numbers = "", (), False, False
    if not (isinstance(name, str) and are_tokens and are_numbers):
        raise DataError('this is no answer of the form {"id": ..., "answers": [{"token_ids": [...], "logprob": ...}]}',
                        where=f"{file}, line {number}", remedy="remove the line; what it answered will be asked again")
    if len(answers) != count:
        raise DataError(f"{len(answers)} answers where {count} were asked for", where=f"{file}, line {number}",
                        remedy="remove the line; what it answered will be asked again")
    return name, answers


def _check_complete(counts: Counter[str], export: Export) -> None:
    asked = set(export.ids)
    groups = {
        "answered more than once": [name for name, count in counts.items() if count > 1],
        "not among the questions": [name for name in counts if name not in asked],
        "without an answer": [name for name in export.ids if name not in counts],
    }
    wrong = [f"{len(names):,} {what} ({', '.join(names[:SHOWN_IDS])}{', ...' if len(names) > SHOWN_IDS else ''})"
             for what, names in groups.items() if names]
    if not wrong:
        return
    is_unfinished = len(wrong) == 1 and groups["without an answer"]
    raise DataError(f"of {len(asked):,} questions: " + "; ".join(wrong), where=str(export.folder),
                    remedy=_go_on(export) if is_unfinished else "remove the lines of these ids, then let the engine "
                    "go on; or move the answers away and let it begin anew")


def _go_on(export: Export) -> str:
    return f"where the engine is installed: python {export.folder / export.about.get('program', 'PROGRAM')}"
