"""What open_clip's tokenizers do to a caption before they split it into tokens.

The four rules are open_clip's (`open_clip.tokenizer`), which are OpenAI's and big_vision's; they are written down here
because an exported model is run without open_clip and torch.
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
    """Return the function that cleans a caption: broken encodings and HTML entities are repaired, spaces made single.

    Args:
        kind: `lower` also lower-cases, `canonicalize` also lower-cases and drops ASCII punctuation, `whitespace` neither.

    Raises:
        MissingExtraError: ftfy, which comes with open_clip, is not installed.
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
