"""Convert untrusted text to HTML that only displays it.

All text from a table, a server or a summary passes through here. Characters that hide, reorder or break text are
spelled out as U+202E and so on; only plain http(s) URLs become links.
"""

from __future__ import annotations

import html
import re

SHORT = 140  # characters shown before the rest is folded away
MOST_MARKUP = 2000  # characters of HTML that one text may become
MOST_LINK = 2000

# Controls, soft hyphen, bidi marks and overrides, invisible and blank characters, line separators, variation selectors,
# surrogates, interlinear marks, noncharacters, tags. Joiners (U+200C, U+200D) stay between letters of scripts that need
# them and within emoji, and so does U+FE0F after an emoji. The page's show.js has the same rule.
_JOINED = "[\u0600-\u0dff\u1000-\u109f\u1780-\u18af\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]"
_EMOJI = "[\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    f"|(?<!{_JOINED})[\u200c\u200d]|[\u200c\u200d](?!{_JOINED})|(?<!{_EMOJI})\ufe0f(?!\u20e3)"
)
_LINKABLE = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?([/?#][!-~]*)?", re.IGNORECASE | re.ASCII)


def escape(text: object) -> str:
    """Return text as HTML for the content of an element or a quoted attribute, with hidden characters spelled out.

    Example:
        >>> escape('<b onclick="x">')
        '&lt;b onclick=&quot;x&quot;&gt;'
        >>> escape("a" + chr(0x202E) + "b")
        'a[U+202E]b'
    """
    return _HIDDEN.sub(lambda found: f"[U+{ord(found.group()):04X}]", html.escape(str(text), quote=True))


def fold(text: str) -> str:
    """Return a text as the content of a cell; if it is long, its beginning with the rest folded away."""
    if len(text) <= SHORT:
        return f'<bdi class="text">{escape(text)}</bdi>'
    shown = _fitting(text)
    note = "" if shown == text else '<p class="note">Cut here; see the table for the full text.</p>'
    return (
        f'<details><summary><bdi class="text">{escape(text[:SHORT])}</bdi>&nbsp;…</summary>'
        f'<bdi class="text full">{escape(shown)}</bdi>{note}</details>'
    )


def reference(url: str) -> str:
    """Return an image reference as the content of a cell: a link if it is a plain http(s) URL, otherwise text."""
    if not is_link(url):
        return fold(url)
    start = escape(url[:SHORT]) + ("&nbsp;…" if len(url) > SHORT else "")
    return f'<a class="text" href="{escape(url)}" rel="noopener noreferrer nofollow" target="_blank">{start}</a>'


def is_link(url: str) -> bool:
    """Tell whether a reference may become a link: http or https, a plain host, visible ASCII only, no user name."""
    return len(url) <= MOST_LINK and _LINKABLE.fullmatch(url) is not None


def _fitting(text: str) -> str:
    """Return approximately the longest beginning of a text whose markup is not too long for the page."""
    text = text[:MOST_MARKUP]
    while (length := len(escape(text))) > MOST_MARKUP:
        text = text[: len(text) * MOST_MARKUP // length]
    return text
