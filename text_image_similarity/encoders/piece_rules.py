"""A sentencepiece model and the rules around it, as data; `pieces` reads captions with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AddedPiece:
    """A token that is cut out of a caption before sentencepiece sees it.

    Args:
        text: What it looks like.
        id: Its id.
        special: Whether it is one of the tokenizer's special tokens.
        lstrip, rstrip: Whether it takes the spaces before and after it with it.
        single_word: Whether it counts only between spaces.
    """

    text: str
    id: int
    special: bool
    lstrip: bool
    rstrip: bool
    single_word: bool


@dataclass(frozen=True, slots=True)
class PieceRules:
    """What sentencepiece's own file does not say.

    Args:
        added: Tokens that are cut out first.
        unknown: The unknown token, which stands before a text so that sentencepiece keeps the spaces at its start.
        end: Id of the token that ends a row.
        pad: The id that fills a row up.
        lower: Whether captions become lower-case.
        split_special: Whether special tokens in a caption are read as text.
        context_length: Tokens of a row.
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
        """What the added tokens look like."""
        return [piece.text for piece in self.added]

    def as_dict(self) -> dict[str, Any]:
        """Return the rules as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> PieceRules:
        """Return the rules that `as_dict` gave."""
        return cls(**{**facts, "added": tuple(AddedPiece(**piece) for piece in facts["added"])})


@dataclass(frozen=True, slots=True)
class PieceFile:
    """A sentencepiece model and the rules around it, as an export holds them.

    Args:
        model: The bytes of its file, `spiece.model`.
        rules: The rules.
    """

    model: bytes
    rules: PieceRules
