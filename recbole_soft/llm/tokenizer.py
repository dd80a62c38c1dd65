"""Any Hugging Face tokenizer behind the three calls that prompts need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from recbole_soft.errors import ModelError


class LLMTokenizer:
    """Encodes plain text and decodes answers.

    Attributes:
        hf: the Hugging Face tokenizer.
        bos_ids: `[id]` when the tokenizer begins texts with a beginning-of-text token, else `[]`.
        eos_id: the token that ends a response.
        pad_id: filler that the attention mask always hides.
    """

    def __init__(self, hf_tokenizer, pad_token: str = "auto"):  # noqa: S107  a token of text
        self.hf = hf_tokenizer
        if hf_tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end-of-text token", where=f"llm_path={hf_tokenizer.name_or_path}",
                             remedy="set eos_token in its tokenizer_config.json")
        self.eos_id: int = hf_tokenizer.eos_token_id
        self.bos_ids = self._beginning()
        self.is_pad_new = pad_token == "new" and hf_tokenizer.pad_token_id is None  # noqa: S105  a token of text
        if self.is_pad_new:
            hf_tokenizer.add_special_tokens({"pad_token": "<pad>"})
        own = hf_tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if own is None else own

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text; special tokens are neither added nor read out of the text."""
        if not texts:
            return []
        return self.hf(
            list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False,
            return_token_type_ids=False, verbose=False,
        )["input_ids"]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens without special tokens and without cosmetic clean-up."""
        return self.hf.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the tokens of a text."""
        probe = 'The "quick" brown fox — 2,048 żółć 日本 ### Response:\n'
        parts = [type(self.hf).__name__, len(self.hf), self.bos_ids, self.eos_id, self.encode([probe]),
                 sorted(self.hf.get_vocab().items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _beginning(self) -> list[int]:
        """BOS only if the tokenizer itself would add it: Llama does, Qwen and GPT-2 do not."""
        bos = self.hf.bos_token_id
        with_special = self.hf("a")["input_ids"]
        return [bos] if bos is not None and with_special[:1] == [bos] else []
