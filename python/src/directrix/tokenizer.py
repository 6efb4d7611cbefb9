"""Tokenizers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import _directrix
from ._arrays import as_ids


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, core: _directrix.CoreTokenizer) -> None:
        self._core = core

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """The token ids of a text, `[tokens]`. No special token is added; one that is written in the text becomes its own id."""
        return self._core.encode(text)

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of token ids, special tokens included."""
        return self._core.decode(as_ids(tokens).reshape(-1).tolist())

    def texts(self, tokens: npt.ArrayLike) -> list[str]:
        """Each token's text as a person should see it: hidden characters by their codes, and no two tokens alike."""
        return self._core.texts(as_ids(tokens).reshape(-1).tolist())

    def pieces(self, tokens: npt.ArrayLike) -> list[str]:
        """Each token's piece of the text that they are together; empty for the further tokens of a character."""
        return self._core.pieces(as_ids(tokens).reshape(-1).tolist())

    def single_token(self, text: str) -> int:
        """The id of the one token that a text is.

        Raises:
            CorpusError: if it is none or several.
        """
        return self._core.single_token(text)

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins prompts, if the model's files name one."""
        return self._core.bos

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._core.vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} tokens)"
