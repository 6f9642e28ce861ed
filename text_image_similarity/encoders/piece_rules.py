"""Data classes for a sentencepiece model and the rules around it, with which `pieces` tokenizes captions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AddedPiece:
    """A token that is split off a caption before sentencepiece reads it.

    Args:
        text: Text of the token.
        id: Id of the token.
        special: Whether the token is one of the tokenizer's special tokens.
        lstrip, rstrip: Whether the spaces before and after the token are removed.
        single_word: Whether the token is recognised only between spaces.
    """

    text: str
    id: int
    special: bool
    lstrip: bool
    rstrip: bool
    single_word: bool


@dataclass(frozen=True, slots=True)
class PieceRules:
    """The rules of a tokenizer that the file of its sentencepiece model does not contain.

    Args:
        added: Tokens that are split off first.
        unknown: The unknown token. It is put before a text so that sentencepiece keeps the spaces at its start.
        end: Id of the token that ends a row.
        pad: Id of the padding token.
        lower: Whether captions are lower-cased.
        split_special: Whether special tokens in a caption are read as text.
        context_length: Length of a row in tokens.
    """

    added: tuple[AddedPiece, ...]
    unknown: str
    end: int
    pad: int
    lower: bool
    split_special: bool
    context_length: int

    @property
    def texts(self) -> list[str]:
        """The texts of the added tokens."""
        return [piece.text for piece in self.added]

    def as_dict(self) -> dict[str, Any]:
        """Return the rules as values that JSON can represent."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> PieceRules:
        """Restore the rules from the result of `as_dict`."""
        return cls(**{**facts, "added": tuple(AddedPiece(**piece) for piece in facts["added"])})


@dataclass(frozen=True, slots=True)
class PieceFile:
    """A sentencepiece model and the rules around it, as an export stores them.

    Args:
        model: Contents of the model's file, `spiece.model`.
        rules: The rules.
    """

    model: bytes
    rules: PieceRules
