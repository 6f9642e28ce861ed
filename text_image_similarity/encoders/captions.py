"""Clean captions as open_clip's tokenizers do before they split them into tokens.

The rules are those of `open_clip.tokenizer`, which come from OpenAI and big_vision. The rules are repeated here because
exported models run without open_clip and torch.
"""

from __future__ import annotations

import html
import string
from collections.abc import Callable
from typing import Literal, get_args

from ..system import require

Cleaning = Literal["lower", "whitespace", "canonicalize"]
CLEANINGS: tuple[str, ...] = get_args(Cleaning)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def cleaner(kind: Cleaning) -> Callable[[str], str]:
    """Return a function that fixes a caption's encoding, decodes its HTML entities and collapses its white space.

    Args:
        kind: `lower` also lower-cases; `canonicalize` also lower-cases, replaces underscores with spaces and removes
            other ASCII punctuation; `whitespace` does nothing more.

    Raises:
        MissingExtraError: ftfy, which is installed with open_clip, is missing.
    """
    require("reading captions for an open_clip model", "ftfy", extra="open-clip")
    from ftfy import fix_text

    def clean(text: str) -> str:
        text = html.unescape(html.unescape(fix_text(text))).strip()
        if kind == "canonicalize":
            text = text.replace("_", " ").translate(_NO_PUNCTUATION).lower()
        text = " ".join(text.split())
        return text.lower() if kind == "lower" else text

    return clean
