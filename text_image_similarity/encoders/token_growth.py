"""Open a tokenizer only if its steps can neither make a caption much longer nor take long.

A stranger's `tokenizer.json` below 1 KB could otherwise turn one letter into gigabytes before the caption is cut. A
tokenizer that another library opens is checked twice: its files before, because a tokenizer processes its own tokens
when it is opened, and its steps afterwards, because a library may add steps.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..bounded_json import parse_json
from ..errors import ModelNameError
from .added_tokens import added_pieces, check_added, check_ids, check_stripped
from .panics import panics_are_errors
from .piece_chains import check_chains, pieces_of
from .protocol_buffers import fields_of
from .settings_files import TOKENIZERS
from .token_patterns import read_pattern

_MOST_PARTS = 1 << 26  # commas and brackets; a vocabulary of a million pieces has a few million
_MOST_STEPS = 96  # steps and patterns; published models have up to twenty
_MOST_PATTERN = 1000  # letters of all patterns together; published models have up to 250
# Letters that expressions, plus bytes that strings, may read in all for each letter of a caption; CLIP's read 48.
_MOST_READ = 100
_MOST_LETTERS = 8  # letters that a step may write; all published steps write up to three
_MOST_GROWTH = 256  # factor by which all steps together may lengthen a text; ordinary models have up to 180
_MOST_SPECIAL = 16  # tokens that post-processors add to a caption; all published ones add up to four
_MOST_WORD = 256  # letters of a word that WordPiece looks up part by part; all published models state 100
_STEPS = ("normalizer", "pre_tokenizer", "post_processor")
_LONGER = "has steps that could make a caption far longer; use another tokenizer"
_ADDED = ("added_tokens", "padding")  # parts of tokenizer.json; transformers also adds the padding token
_OWN_GROWTH = 12  # factor by which the normalizers that transformers creates itself may lengthen a text
# Files in which every string may become a token; names of settings may not, but they are far shorter.
_ADDED_FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")  # written around each letter that a model does not know
# Factors by which other steps may lengthen a text; steps that are not listed do not lengthen it.
_TIMES = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Lowercase": 2,
    "BertNormalizer": 12,
    "ByteLevel": 5,
    "Metaspace": 2,
}
_ALONE = {"added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}


def tokenizer_from(text: str) -> Tokenizer:
    """Return the tokenizer that the text of a `tokenizer.json` describes.

    Raises:
        ValueError: The tokenizer is damaged, or could make captions too long.
    """
    _check_file(text)
    try:
        with panics_are_errors():
            tokenizer = Tokenizer.from_str(text)
    except Exception as exc:  # the library `tokenizers` raises nothing more specific
        raise ValueError(f"tokenizer.json is damaged: {exc}") from exc
    check_steps(tokenizer)
    return tokenizer


def check_tokenizers(name: str, folder: Path) -> None:
    """Check the files of a tokenizer before a library opens them.

    Args:
        name: The model's name as the user gave it, for messages.
        folder: Folder of the tokenizer; some files may be missing.

    Raises:
        ModelNameError: A file is damaged, or could make captions too long.
    """
    growth, before = _OWN_GROWTH, 1
    for path in _files(folder, TOKENIZERS):
        with _named(name, path):
            if path.suffix != ".json":
                found = 2 * check_pieces(path.read_bytes()), 1  # in lower case
            elif path.name.startswith("tokenizer"):
                found = _check_file(path.read_text(encoding="utf-8"), _OWN_GROWTH)
            growth, before = max(growth, found[0]), max(before, found[1])
    for path in _files(folder, _ADDED_FILES):
        with _named(name, path):
            stated = parse_json(path.read_text(encoding="utf-8"))
            if path.name == "tokenizer_config.json" and isinstance(stated, dict):
                stated.pop("chat_template", None)  # long, and never a token
            if path.name == "added_tokens.json" and isinstance(stated, dict):
                check_ids(stated.values())
            check_added(stated, growth, before)


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


@contextmanager
def _named(name: str, path: Path) -> Iterator[None]:
    """Turn an error about a file into a ModelNameError that names the file and the model."""
    try:
        yield
    except (OSError, ValueError) as exc:
        raise ModelNameError(f"the {path.name} of {name} cannot be used: {exc}") from exc


def check_steps(tokenizer: Tokenizer) -> None:
    """Check the steps of a tokenizer that is open.

    Raises:
        ValueError: The steps could make captions too long, or an added token could take too long to find.
    """
    check_stripped(tokenizer)
    _check_model({key: getattr(tokenizer.model, key, None) for key in (*_AFFIXES, "max_input_chars_per_word")})
    if tokenizer.post_processor is not None:
        _check_post_processors(json.loads(tokenizer.post_processor.__getstate__()))
    steps = _stated_steps(tokenizer)
    _check_patterns(steps)
    if any(_growth(step)[0] > _MOST_LETTERS for step in _steps(steps)) or growth_of(tokenizer) > _MOST_GROWTH:
        raise ValueError(f"the tokenizer {_LONGER}")


def growth_of(tokenizer: Tokenizer | None) -> int:
    """Return the largest factor by which a tokenizer's steps may lengthen a caption; 1 for None."""
    if tokenizer is None:
        return 1
    return math.prod(_growth(step)[1] for step in _steps(_stated_steps(tokenizer)))


def _normalised(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the factor by which a normalizer may lengthen an added token, and the number of letters it may prepend."""
    if tokenizer.normalizer is None:
        return 1, 0
    steps = list(_steps(json.loads(tokenizer.normalizer.__getstate__())))
    before = sum(_growth(step)[0] for step in steps if step["type"] == "Prepend")
    return math.prod(_growth(step)[1] for step in steps), before


def _stated_steps(tokenizer: Tokenizer) -> list[Any]:
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer)
    return [json.loads(part.__getstate__()) for part in parts if part is not None]


def check_pieces(model: bytes) -> int:
    """Check a sentencepiece model: its pieces, the rules with which it replaces letters, and its added tokens.

    Returns:
        The largest factor by which its rules may lengthen a caption.

    Raises:
        ValueError: The model is damaged, could make captions too long or take long, or its tokens are too long.
    """
    if (growth := _growth_of_pieces(model)) > _MOST_GROWTH:
        raise ValueError(f"the tokenizer {_LONGER}")
    check_added(list(added_pieces(model)), max(_OWN_GROWTH, 2 * growth), 1)
    check_chains(pieces_of(model), 2 * growth)
    return growth


def _growth_of_pieces(model: bytes) -> int:
    specs = [spec for number, spec in fields_of(model) if number == 3 and isinstance(spec, bytes)]  # normalizer_spec
    rules = [charsmap for spec in specs for number, charsmap in fields_of(spec) if number == 2]
    return max((_longest(each) for each in rules if isinstance(each, bytes)), default=1) or 1


def _check_file(text: str, least: int = 1) -> tuple[int, int]:
    """Check a `tokenizer.json`, and return the two numbers of `_normalised` for it.

    Args:
        text: The file's contents.
        least: Factor by which a normalizer that a library may use instead could lengthen a text.
    """
    try:
        stated = parse_json(text, most_parts=_MOST_PARTS, object_pairs_hook=_members_of)
        if not isinstance(stated, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as exc:
        raise ValueError(f"tokenizer.json is damaged: {exc}") from exc
    # The library compiles the expressions of all parts.
    _check_patterns([stated.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")])
    try:
        # The library also reads steps that do not name their type, and adds the type when it writes them.
        with panics_are_errors():
            alone = Tokenizer.from_str(json.dumps({**_ALONE, **{key: stated.get(key) for key in _STEPS}}))
    except Exception as exc:  # the library `tokenizers` raises nothing more specific
        raise ValueError(f"tokenizer.json is damaged: {exc}") from exc
    check_steps(alone)
    _check_model(model := stated.get("model"))
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping):
        check_ids(vocabulary.values())
    if isinstance(vocabulary, list):  # of a unigram model: pieces with their scores
        pieces = (each[0] for each in vocabulary if isinstance(each, list) and each)
        check_chains((piece for piece in pieces if isinstance(piece, str)), growth_of(alone))
    growth, before = _normalised(alone)
    check_added([stated.get(key) for key in _ADDED], max(least, growth), before)
    return growth, before


def _members_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object; of two with one name, the library could read one and this module the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("two members of an object have the same name")
    return found


def _check_patterns(parts: Any) -> None:
    """Check that steps, in any form that the library reads, are few and search only for what is found quickly."""
    count, letters, read, waiting = 0, 0, 0, [parts]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, dict):
            continue
        waiting += part.values()
        count += 1
        letters += sum(len(str(part.get(kind, ""))) for kind in ("Regex", "String"))
        if letters <= _MOST_PATTERN and "Regex" in part:
            read += _letters_read(str(part["Regex"]))
        read += len(str(part.get("String", "")).encode(errors="replace"))  # in bytes, as the library compares them
        if letters > _MOST_PATTERN or read > _MOST_READ:
            raise ValueError(
                "the tokenizer looks for many or long texts, which could take too long; use another tokenizer"
            )
        if count > _MOST_STEPS:
            raise ValueError(f"the tokenizer has more than {_MOST_STEPS} steps and patterns; use another tokenizer")


def _letters_read(pattern: str) -> int:
    """Return the number of letters that an expression reads for each letter of a caption."""
    if (found := read_pattern(pattern)) is None:
        raise ValueError(
            f"the tokenizer looks for {pattern!r:.100}, which could take too long, because it is not a regular expression of "
            "the simple kind that published models have; use another tokenizer"
        )
    return found.read


def _check_model(model: Any) -> None:
    """Check the settings with which a tokenizer's model divides words into tokens."""
    stated = model if isinstance(model, Mapping) else {}
    if any(len(str(stated.get(key) or "")) > _MOST_LETTERS for key in _AFFIXES):
        raise ValueError(f"the tokenizer {_LONGER}")
    longest = stated.get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > _MOST_WORD:
        raise ValueError(f"the tokenizer looks up words of more than {_MOST_WORD} letters; use another tokenizer")


def _check_post_processors(part: Any) -> None:
    """Check that post-processors do not repeat a caption, and add only a few tokens to it."""
    added = 0
    for step in _post_processors(part):
        most = 2  # as BERT's and RoBERTa's add; this also limits the number of steps that add nothing
        for template in (step.get("single") or (), step.get("pair") or ()):
            sequences = [piece["Sequence"]["id"] for piece in template if "Sequence" in piece]
            specials = [piece["SpecialToken"]["id"] for piece in template if "SpecialToken" in piece]
            most = max(most, sum(len(step["special_tokens"][each]["ids"]) for each in specials))
            if len(sequences) > len(set(sequences)):
                raise ValueError(f"the tokenizer {_LONGER}")
        added += most
        if added > _MOST_SPECIAL:
            raise ValueError(f"the tokenizer {_LONGER}")


def _post_processors(part: Any) -> Iterator[dict[str, Any]]:
    """Yield post-processors, those of a sequence one by one."""
    waiting = [part]
    while waiting:
        one = waiting.pop()
        inner = one.get("processors")
        if isinstance(inner, list):
            waiting += inner
        else:
            yield one


def _growth(step: dict[str, Any]) -> tuple[int, int]:
    """Return the number of letters that a step writes at once, and the factor by which it could lengthen a text."""
    kind = step["type"]
    if kind == "Precompiled":
        return 0, max(1, _longest(b64decode(step["precompiled_charsmap"])))
    if kind in _TIMES:
        return 0, _TIMES[kind]
    if kind == "Prepend":
        return len(str(step["prepend"])), 1  # the step writes only once
    if kind != "Replace":
        return 0, 1
    length, pattern = len(str(step["content"])), step["pattern"]
    found = read_pattern(str(pattern["Regex"])) if "Regex" in pattern else None
    replaced = found.shortest if found else len(str(pattern.get("String", "")))
    # A pattern that can match the empty string matches between any two letters.
    return length, max(1, -(-length // replaced)) if replaced else 1 + length


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of normalizers and pre-tokenizers, sequences included."""
    if isinstance(part, list):
        for each in part:
            yield from _steps(each)
    elif isinstance(part, dict):
        yield part
        for inner in ("normalizers", "pretokenizers"):
            yield from _steps(part.get(inner))


def _longest(charsmap: bytes) -> int:
    """Return the length of the longest text with which sentencepiece's rules may replace a letter.

    The rules consist of the length of a trie, the trie, and the texts, each of which ends with a zero.
    """
    texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :]
    return max(len(text.decode(errors="replace")) for text in texts.split(b"\0"))
