"""Check the settings that open_clip passes to a tokenizer: their names, types and sizes.

The `open_clip_config.json` of a model folder is not trusted. open_clip writes special tokens into a regular expression
without escaping them, and passes other settings to `transformers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ModelError

_MOST_TOKENS = 256  # special tokens; open_clip's own models have none besides the two that it adds itself
_TOKEN = re.compile(r"<\w{1,64}>")  # the form of open_clip's own, such as <start_of_text>
_LANGUAGE = re.compile(r"[\w-]{1,32}")  # such as eng_Latn


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_TOKENS and all(map(_is_token, value))


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


# What each setting may be, in words and as a function; `None` leaves a setting out.
_KNOWN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "additional_special_tokens": (
        f"a list of at most {_MOST_TOKENS} tokens of the form <name>, with up to 64 letters, digits and underscores",
        _is_tokens,
    ),
    "clean": ("a string", lambda value: isinstance(value, str)),
    "language": (
        "the code of a language, such as eng_Latn",
        lambda value: isinstance(value, str) and _LANGUAGE.fullmatch(value) is not None,
    ),
    "strip_sep_token": ("true or false", lambda value: isinstance(value, bool)),
}


def check_options(name: str, text: Mapping[str, Any]) -> None:
    """Check what a model's settings pass to open_clip's tokenizers.

    Args:
        name: The model's name as the user gave it, for messages.
        text: The `text_cfg` of the settings.

    Raises:
        ModelError: A setting is not known, or has a value of another type or size.
    """
    if (mode := text.get("tokenizer_mode")) not in (None, "", "clips"):
        raise ModelError(
            f"the settings of {name} have tokenizer_mode {mode!r:.50}, which is not supported; use clips, or remove it"
        )
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, Mapping):
        raise ModelError(f"the settings of {name} have tokenizer_kwargs that are not a JSON object; correct them")
    if unknown := sorted(options.keys() - _KNOWN.keys()):
        raise ModelError(
            f"the settings of {name} pass {', '.join(unknown):.100} to its tokenizer, which is not supported: code that comes "
            "with a model is never run, and captions are never cut at random"
        )
    for key, value in options.items():
        said, fits = _KNOWN[key]
        if value is None or fits(value):
            continue
        wrong = next((one for one in value if not _is_token(one)), value) if isinstance(value, list) else value
        raise ModelError(
            f"the settings of {name} have {wrong!r:.100} in {key} of tokenizer_kwargs, which must be {said}; correct it"
        )
