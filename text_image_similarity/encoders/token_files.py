"""A model's tokenizer as a file, and what else there is to know to read captions with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..errors import ModelError
from .tokens import Tokens, cleaned_tokens, tokens_of
from .two_tower import TwoTowerEncoder

# From a word to more than any context holds.
CAPTIONS = [
    "a",
    "photo of two dogs",
    "photo of two dogs on green grass in front of an old house",
    "children are playing with a ball " * 100,
]


def write_tokens(encoder: TwoTowerEncoder, folder: Path) -> dict[str, Any]:
    """Write `tokenizer.json`, and return the rest as JSON can hold it.

    Raises:
        ModelError: The tokenizer cannot be saved, or reads captions differently once it is.
    """
    tokens = encoder.tokens
    tokenizer = tokens.tokenizer
    if tokenizer is None:
        raise ModelError("its tokenizer cannot be saved as one file")
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    facts = {
        "kind": "tokenizers",
        "pad": tokens.pad,
        "if_empty": tokens.encode([""])[0],
        "clean": tokens.clean,
        "whole": tokens.whole,
        "context_length": encoder.context_length,
        "encode_special_tokens": tokenizer.encode_special_tokens,
    }
    _check(encoder, open_tokens(folder, facts), tokenizer)
    return facts


def open_tokens(folder: Path, facts: Mapping[str, Any]) -> Tokens:
    """Read the tokenizer that `write_tokens` wrote, without the libraries of its model."""
    tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.encode_special_tokens = facts["encode_special_tokens"]  # which its file does not hold
    if tokenizer.truncation is None:  # a dual encoder's own file, as it lies beside graphs without weights
        tokenizer.enable_truncation(facts["context_length"])
    if (clean := facts.get("clean")) is not None:
        return cleaned_tokens(tokenizer, pad=facts["pad"], clean=clean, whole=facts["whole"])
    return tokens_of(tokenizer, pad=facts["pad"], if_empty=facts["if_empty"])


def _check(encoder: TwoTowerEncoder, tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Read captions with both tokenizers, some made of the first and last words, where special tokens stand.

    Raises:
        ModelError: They read them differently.
    """
    size = tokenizer.get_vocab_size()
    ends = ["".join(tokenizer.id_to_token(i) or "" for i in part) for part in (range(8), range(size - 8, size))]
    captions = [*CAPTIONS, *ends, ""]
    if tokens.encode(captions) != encoder.tokenize(captions):
        raise ModelError("its tokenizer reads captions differently once it is saved")
