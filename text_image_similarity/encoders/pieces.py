"""Tokenize captions as SigLIP 1 does, without transformers, from its sentencepiece model and the rules around it.

The rules are those of `transformers`' SiglipTokenizer, which follows big_vision. Special tokens are split off first.
The remaining text loses its punctuation and is lower-cased, unless the model keeps case. A row ends with the end token.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from ..system import require
from .added_tokens import check_added
from .piece_rules import PieceFile, PieceRules
from .protocols import CutIds
from .token_growth import check_pieces
from .tokens import Ids, Tokens, in_groups

_SPACE = "▁"  # in sentencepiece
_SEARCHED = 16  # factor for the length of added tokens, because each letter of a caption is compared with all of them
# Letters of the unknown token, which is put before each part of a caption; published ones have five.
_MOST_UNKNOWN = 100
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def piece_tokens(file: PieceFile) -> Tokens:
    """Return the `Tokens` of a sentencepiece model; every row is padded to the context length.

    Raises:
        MissingExtraError: sentencepiece is not installed.
        RuntimeError: The model's bytes are damaged.
        ValueError: The model could make captions too long, or added tokens or the unknown token are too long.
    """
    require("reading captions for a SigLIP model", "sentencepiece")
    from sentencepiece import SentencePieceProcessor

    growth = check_pieces(file.model) * (2 if file.rules.lower else 1)
    processor, rules = SentencePieceProcessor(), file.rules
    check_added(rules.texts, _SEARCHED)
    if len(rules.unknown) > _MOST_UNKNOWN:
        raise ValueError(f"the unknown token has {len(rules.unknown):,} letters, more than {_MOST_UNKNOWN}")
    processor.LoadFromSerializedProto(file.model)
    known = {piece.text: piece for piece in rules.added}
    pieces_of, split = _pieces(processor, rules), _splitter(rules)

    def one(text: str) -> Ids:
        parts = split(_SPACE + text.replace(_SPACE, " "))
        found = [piece for part in parts for piece in ((part,) if part in known else pieces_of(part)) if part]
        if len(found) > 1 and found[0] == _SPACE and found[1] in known and known[found[1]].special:
            del found[0]  # the space that was added before the caption
        ids = [known[piece].id if piece in known else processor.piece_to_id(piece) for piece in found]
        kept = ids[: rules.context_length - 1]
        row = kept if kept and kept[-1] == rules.end else [*kept, rules.end]
        return CutIds(row) if len(ids) > len(kept) else row

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [one(text) for some in in_groups(texts, growth) for text in some]

    return Tokens(encode, rules.pad, rules.context_length, whole=True, pieces=file)


def _pieces(processor: Any, rules: PieceRules) -> Callable[[str], list[str]]:
    before = len(processor.encode(rules.unknown))

    def pieces_of(text: str) -> list[str]:
        text = (text.lower() if rules.lower else text).translate(_NO_PUNCTUATION)
        text = re.sub(r"\s+", " ", text).strip()
        found: list[str] = processor.encode(rules.unknown + text, out_type=str)
        return found[before:] if len(found) >= before else found

    return pieces_of


def _splitter(rules: PieceRules) -> Callable[[str], list[str]]:
    """Return a function that splits added tokens off a text, longest first."""
    if rules.split_special:
        return lambda text: [text]
    known = {piece.text: piece for piece in rules.added}
    at_each = re.compile("(" + "|".join(re.escape(text) for text in sorted(known, key=len, reverse=True)) + ")")

    def split(text: str) -> list[str]:
        parts = [part for part in at_each.split(text) if part]
        for i, part in enumerate(parts):
            if (piece := known.get(part)) is None:
                continue
            left, right = parts[i - 1] if i else "", parts[i + 1] if i + 1 < len(parts) else ""
            if piece.rstrip and right:
                parts[i + 1] = right.lstrip()
            if piece.lstrip and left:
                parts[i - 1] = left.rstrip()
            if piece.single_word and left and left[-1] != " ":
                parts[i - 1], parts[i] = parts[i - 1] + part, ""
            elif piece.single_word and right and right[0] != " ":
                parts[i + 1], parts[i] = part + parts[i + 1], ""
        return parts

    return split
