"""A language model that only reads and writes: answers to questions, and vectors of texts. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from recbole_soft.artifacts import ArtifactStore
from recbole_soft.errors import ModelError
from recbole_soft.llm.backbone import Backbone
from recbole_soft.llm.beam import BeamSettings
from recbole_soft.llm.generate import generate
from recbole_soft.llm.title_vectors import TitleVectors

_SLOT = "SLOT-OF-THE-QUESTION"


class _Untouched:
    """Stands in for tuned weights where there are none."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        yield self.model


class FrozenModel:
    """Texts in, texts and vectors out.

    Args:
        backbone: model and tokenizer.
        pooling, batch_tokens: `embed_pooling` and `embed_batch_tokens`.
        store: where vectors are kept.
    """

    def __init__(self, backbone: Backbone, pooling: str, batch_tokens: int | None, store: ArtifactStore) -> None:
        self._backbone, self._pooling, self._batch_tokens, self._store = backbone, pooling, batch_tokens, store
        self.fingerprint = f"{backbone.fingerprint}-{backbone.tokenizer.fingerprint}"

    def vectors(self, texts: Sequence[str], keep: bool = True) -> Tensor:
        """[n, d] float32 on the CPU. A text longer than the model reads is cut at its end.

        Args:
            keep: keep them by content for later runs.
        """
        tokenizer, longest = self._backbone.tokenizer, self._backbone.longest_input
        if longest is not None:
            room = longest - 1
            texts = [text if len(tokens) <= room else tokenizer.decode(tokens[:room])
                     for text, tokens in zip(texts, tokenizer.encode(texts), strict=True)]
        table = TitleVectors(self._backbone, _Untouched(self._backbone.model), list(dict.fromkeys(texts)),
                             self._pooling, self._batch_tokens, self._backbone.fingerprint,
                             self._store if keep else None)
        return table.lookup(texts).float().cpu()

    def answers(self, questions: Sequence[tuple[str, str]], beams: int, max_new_tokens: int, batch_size: int,
                progress: Callable[[int], None] | None = None) -> list[list[str]]:
        """The best beams for every question, best first, as text.

        Args:
            questions: (system, user) texts; put together by the model's own chat template where it has one.

        Raises:
            ModelError: a question and its answer are longer than the model reads.
        """
        tokenizer, longest = self._backbone.tokenizer, self._backbone.longest_input
        prompts = [self._prompt(*question) for question in questions]
        needed = max(map(len, prompts), default=0) + max_new_tokens
        if longest is not None and needed > longest:
            raise ModelError(f"the language model reads {longest} tokens, but a question and its answer need {needed}",
                             where="llm_path", remedy="choose a model that reads more, or lower --cot_max_tokens")
        found = generate(self._backbone.model, prompts, BeamSettings(beams, max_new_tokens, 1.0, beams),
                         eos_ids=self._backbone.ends, pad_id=tokenizer.pad_id, batch_size=batch_size, progress=progress)
        return [[tokenizer.decode(beam.tokens).strip() for beam in best] for best in found]

    def _prompt(self, system: str, user: str) -> list[int]:
        """Tokens of a question; special tokens come from the chat template alone, never from titles in the question."""
        tokenizer, question = self._backbone.tokenizer, f"{system}\n\n{user}"  # some templates know no system role
        if not getattr(tokenizer.hf, "chat_template", None):
            return tokenizer.bos_ids + tokenizer.encode([f"{question}\n\n"])[0]
        text = tokenizer.hf.apply_chat_template([{"role": "user", "content": _SLOT}], add_generation_prompt=True,
                                                tokenize=False)
        before, _, after = text.partition(_SLOT)
        around = [tokenizer.hf(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
        return [*around[0], *tokenizer.encode([question])[0], *around[1]]
