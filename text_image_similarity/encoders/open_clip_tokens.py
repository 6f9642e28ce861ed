"""Tokenize captions for open_clip models, with CLIP's byte pairs or a tokenizer of `transformers`, after cleaning them.

Ids equal those of open_clip's own tokenizer; this is checked on a few captions when a model is loaded. If the ids
differ, as they do for tokenizers that add tokens in an unusual order, open_clip's own tokenizer is used, under a lock.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, bytes_to_unicode, default_bpe
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from ..errors import ModelError
from .captions import CLEANINGS, Cleaning
from .open_clip_files import OpenClipFiles
from .panics import panics_are_errors
from .protocols import CutIds
from .token_growth import check_steps, growth_of
from .tokens import Ids, Tokens, cleaned_tokens, copy_tokenizer, in_groups

_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PROBES = ("a photo of 2 dogs, it's raining", "", "Ünïcode — naïve café 日本語 &amp; <end_of_text> _x_", "word " * 300)


def open_clip_tokens(files: OpenClipFiles) -> tuple[Tokens, int]:
    """Return a model's `Tokens` and its context length.

    Raises:
        ModelError: The model's settings cannot be used.
    """
    text = files.model["text_cfg"]
    length = int(text.get("context_length", 77))
    options = dict(text.get("tokenizer_kwargs") or {})
    if files.tokenizer is None:
        clean = _cleaning(files.name, options.pop("clean", "lower"))
        more = tuple(options.pop("additional_special_tokens", None) or ())
        tokens = cleaned_tokens(_byte_pairs(length, more), pad=0, clean=clean)
        theirs: Any = SimpleTokenizer(context_length=length, clean=clean, additional_special_tokens=list(more))
        if not _agree(tokens, theirs, length):
            tokens = _their_tokens(theirs, lambda part: [len(theirs.encode(each)) + 2 for each in part], length)
        return tokens, length
    clean = _cleaning(files.name, options.pop("clean", "whitespace"))
    mode = text.get("tokenizer_mode")
    theirs = HFTokenizer(
        str(files.tokenizer),
        length,
        clean,
        tokenizer_mode=mode,
        trust_remote_code=False,
        local_files_only=True,
        **options,
    )
    inner = theirs.tokenizer
    if (backend := getattr(inner, "backend_tokenizer", None)) is not None:
        check_steps(backend)
    if backend is not None and inner.pad_token_id is not None:
        own = copy_tokenizer(backend, length)
        tokens = cleaned_tokens(own, pad=int(inner.pad_token_id), clean=clean, whole=True)
        if _agree(tokens, theirs, length):
            return tokens, length
    return (
        _their_tokens(
            theirs,
            lambda part: [len(row) for row in inner(_cleaned(theirs, part))["input_ids"]],
            length,
            growth_of(backend),
        ),
        length,
    )


def _cleaned(theirs: HFTokenizer, texts: Sequence[str]) -> list[str]:
    return [theirs.clean_fn(text) for text in texts]


def _cleaning(name: str, kind: Any) -> Cleaning:
    if kind not in CLEANINGS:
        raise ModelError(
            f"the settings of {name} clean captions with {kind!r}, which is not one of {', '.join(CLEANINGS)}"
        )
    found: Cleaning = kind
    return found


def _byte_pairs(length: int, more: tuple[str, ...]) -> Tokenizer:
    """Return CLIP's tokenizer with open_clip's special tokens."""
    vocabulary, merges = _vocabulary()
    special = (_START, _END, *more)
    vocab = {**vocabulary, **{token: len(vocabulary) + i for i, token in enumerate(special)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=_END))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ends = [(_START, vocab[_START]), (_END, vocab[_END])]
    tokenizer.post_processor = processors.TemplateProcessing(f"{_START} $A {_END}", None, ends)
    tokenizer.enable_truncation(length)
    return tokenizer


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = list(bytes_to_unicode().values())
    names = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    return {name: i for i, name in enumerate(names)}, merges


def _agree(tokens: Tokens, theirs: Callable[..., Any], length: int) -> bool:
    return bool((tokens.padded(tokens.encode(_PROBES), length) == theirs(list(_PROBES)).numpy()).all())


def _their_tokens(
    theirs: Callable[..., Any], lengths: Callable[[Sequence[str]], list[int]], most: int, growth: int = 1
) -> Tokens:
    """Return `Tokens` of open_clip's tokenizer, with full-length rows; `lengths` counts ids before captions are cut."""
    locks: dict[int, Lock] = {}  # tokenizers of transformers keep state, and a fork may copy a held lock

    @panics_are_errors()
    def encode(texts: Sequence[str]) -> list[Ids]:
        with locks.setdefault(os.getpid(), Lock()):
            return [row for some in in_groups(texts, growth) if some for row in rows_of(some)]

    def rows_of(some: list[str]) -> list[Ids]:
        rows: list[Ids] = theirs(some).tolist()
        return [CutIds(row) if size > most else row for row, size in zip(rows, lengths(some), strict=True)]

    return Tokens(encode, 0, most, whole=True)
