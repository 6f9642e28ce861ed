"""Write a model's tokenizer to a file, with the settings needed to tokenize captions, and read it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .piece_rules import PieceFile, PieceRules
from .pieces import piece_tokens
from .settings_files import MOST_CONTEXT, is_context
from .token_growth import tokenizer_from
from .tokens import Tokens, cleaned_tokens, tokens_of
from .two_tower import TwoTowerEncoder

_PIECES = "spiece.model"
# From one word to a caption that is too long for most models.
CAPTIONS = [
    "a",
    "photo of two dogs",
    "photo of two dogs on green grass in front of an old house",
    "children are playing with a ball " * 100,
]


def write_tokens(encoder: TwoTowerEncoder, folder: Path, *, web: bool = False) -> dict[str, Any]:
    """Write `tokenizer.json` or `spiece.model`, and return the other settings as values that JSON can represent.

    Args:
        encoder: The model.
        folder: Folder to write to.
        web: Whether to always write `tokenizer.json`, the only form that browsers read.

    Raises:
        ModelError: The tokenizer cannot be saved, or the saved one reads captions differently.
    """
    tokens = encoder.tokens
    if tokens.pieces is not None and not web:
        (folder / _PIECES).write_bytes(tokens.pieces.model)
        rules = tokens.pieces.rules
        _check(
            encoder,
            open_tokens(folder, facts := {"kind": "sentencepiece", "whole": True, **rules.as_dict()}),
            rules.texts,
        )
        return facts
    tokenizer = tokens.tokenizer
    if tokens.pieces is not None:
        from .piece_tokenizer import piece_tokenizer

        tokenizer = piece_tokenizer(tokens.pieces)
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
    size = tokenizer.get_vocab_size()
    ends = (*range(8), *range(size - 8, size))  # where special tokens usually are
    # A tokenizer converted from pieces differs only after the text of a special token, so that is not compared.
    special = [tokenizer.id_to_token(i) or "" for i in ends] if tokens.pieces is None else []
    _check(encoder, open_tokens(folder, facts), special)
    return facts


def open_tokens(folder: Path, facts: Mapping[str, Any]) -> Tokens:
    """Open the tokenizer that `write_tokens` wrote; the libraries of its model are not needed.

    Raises:
        ValueError: The tokenizer or its settings are damaged, or could make captions too long.
    """
    if not is_context(facts["context_length"]):
        raise ValueError(f"context_length is not a whole number from 1 to {MOST_CONTEXT:,}")
    if facts["kind"] == "sentencepiece":
        rules = PieceRules.from_dict({key: value for key, value in facts.items() if key not in ("kind", "whole")})
        return piece_tokens(PieceFile((folder / _PIECES).read_bytes(), rules))
    tokenizer = tokenizer_from((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.encode_special_tokens = facts["encode_special_tokens"]  # this setting is not stored in the file
    # The file's own settings are not followed: padding and overlapping parts could take gigabytes for each caption.
    tokenizer.no_padding()
    tokenizer.enable_truncation(facts["context_length"])
    if (clean := facts.get("clean")) is not None:
        return cleaned_tokens(tokenizer, pad=facts["pad"], clean=clean, whole=facts["whole"])
    tokens = tokens_of(tokenizer, pad=facts["pad"], if_empty=facts["if_empty"])
    return tokens.filled(facts["context_length"]) if facts["whole"] else tokens


def _check(encoder: TwoTowerEncoder, tokens: Tokens, special: Sequence[str]) -> None:
    """Check that the written tokenizer reads captions, some made of special tokens, as the model's own does.

    Raises:
        ModelError: The written tokenizer reads a caption differently.
    """
    captions = [*CAPTIONS, "A dog's  ball, & two CATS.", "".join(special[:8]), "".join(special[8:]), ""]
    if tokens.encode(captions) != encoder.tokenize(captions):
        raise ModelError("its tokenizer reads captions differently once it has been saved")
