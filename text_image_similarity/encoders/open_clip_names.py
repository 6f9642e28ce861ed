"""The names that only open_clip's models have, and how they are read. No library is loaded.

- `open_clip:ARCHITECTURE/TAG`: weights that open_clip's table knows, such as `open_clip:ViT-B-32/laion2b_s34b_b79k`.
- `open_clip:ARCHITECTURE//PATH`: a file of weights. PATH is what follows the two slashes, as a shell would read it: relative
  to the working directory, or absolute, which makes three slashes.
- `hf-hub:ORG/NAME` and `local-dir:PATH`: a hub model, or a folder, with `open_clip_config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelNameError

CONFIG = "open_clip_config.json"
_FORMS = "write open_clip:ARCHITECTURE/TAG, open_clip:ARCHITECTURE//PATH, hf-hub:ORG/NAME or local-dir:PATH"


@dataclass(frozen=True, slots=True)
class OpenClipName:
    """What such a name says: an architecture with a tag or a file, a hub model, or a folder.

    Args:
        architecture: One of open_clip's, such as `ViT-B-32`.
        tag: Which weights of it.
        file: Its weights.
        hub: Hub id.
        folder: Holds `open_clip_config.json`.
    """

    architecture: str | None = None
    tag: str | None = None
    file: Path | None = None
    hub: str | None = None
    folder: Path | None = None


def read_open_clip_name(name: str) -> OpenClipName | None:
    """Read a name that only open_clip gives; None for every other.

    Raises:
        ModelNameError: It begins like one and cannot be read, or its file or folder does not exist.

    Example:
        >>> read_open_clip_name("open_clip:ViT-B-32/openai").tag
        'openai'
        >>> read_open_clip_name("openai/clip-vit-base-patch32") is None
        True
    """
    scheme, colon, rest = name.partition(":")
    if not colon or scheme not in ("open_clip", "hf-hub", "local-dir"):
        return None
    if scheme == "local-dir":
        folder = Path(rest).expanduser()
        if not (folder / CONFIG).is_file():
            raise ModelNameError(f"model {name}: the folder {folder} has no {CONFIG}")
        return OpenClipName(folder=folder)
    if scheme == "hf-hub":
        if rest.count("/") != 1 or not all(rest.split("/")):
            raise ModelNameError(f"model {name!r} cannot be read; {_FORMS}")
        return OpenClipName(hub=rest)
    architecture, _, tag = rest.partition("/")
    if not architecture or not tag.strip("/"):
        raise ModelNameError(
            f"model {name!r} names no weights; {_FORMS}" if architecture else f"model {name!r}; {_FORMS}"
        )
    if ":" in architecture:  # which open_clip would look for on the hub
        raise ModelNameError(f"model {name!r} cannot be read; is {rest!r} meant? {_FORMS}")
    if tag.startswith("/"):
        return OpenClipName(architecture=architecture, file=_file(name, architecture, tag[1:]))
    if "/" in tag:
        raise ModelNameError(
            f"model {name!r} cannot be read: a tag has no slash, a path follows two slashes, and an architecture has dashes "
            f"instead of slashes; {_FORMS}"
        )
    return OpenClipName(architecture=architecture, tag=tag)


def _file(name: str, architecture: str, text: str) -> Path:
    path = Path(text).expanduser()
    if path.is_file():
        return path
    kind = "is a folder; name the file in it" if path.is_dir() else "does not exist"
    meant = Path("/", text)
    hint = f"; did you mean 'open_clip:{architecture}//{meant}'?" if meant != path and meant.is_file() else ""
    raise ModelNameError(f"the weights of model {name}: {path} {kind}{hint}")
