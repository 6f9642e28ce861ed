"""Parse the names that only open_clip models have, without importing open_clip.

- `open_clip:ARCHITECTURE/TAG`: weights in open_clip's table, such as `open_clip:ViT-B-32/laion2b_s34b_b79k`.
- `open_clip:ARCHITECTURE//PATH`: a file of weights. PATH is the part after the two slashes, read as in a shell:
  relative to the working directory, or absolute, which makes three slashes.
- `hf-hub:ORG/NAME` and `local-dir:PATH`: a hub model, or a folder, with `open_clip_config.json`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from ..errors import ModelNameError

CONFIG = "open_clip_config.json"
_FORMS = "write open_clip:ARCHITECTURE/TAG, open_clip:ARCHITECTURE//PATH, hf-hub:ORG/NAME or local-dir:PATH"


@dataclass(frozen=True, slots=True)
class OpenClipName:
    """A parsed name: an architecture with a tag or a file, a hub model, or a folder.

    Args:
        architecture: Name of open_clip's architecture, such as `ViT-B-32`.
        tag: Tag of published weights.
        file: File of weights.
        hub: Hub id.
        folder: Folder that holds `open_clip_config.json`.
    """

    architecture: str | None = None
    tag: str | None = None
    file: Path | None = None
    hub: str | None = None
    folder: Path | None = None


def read_open_clip_name(name: str) -> OpenClipName | None:
    """Parse a name that only open_clip models have; return None for any other name.

    Raises:
        ModelNameError: The name begins with `open_clip:`, `hf-hub:` or `local-dir:` but cannot be parsed, or its file
            or folder does not exist.

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
            raise ModelNameError(f"model {name}: the folder {folder} has no {CONFIG}; name a folder that contains one")
        return OpenClipName(folder=folder)
    if scheme == "hf-hub":
        if rest.count("/") != 1 or not all(rest.split("/")):
            raise ModelNameError(f"model {name!r} cannot be read; {_FORMS}")
        return OpenClipName(hub=rest)
    architecture, _, tag = rest.partition("/")
    if not architecture or not tag.strip("/"):
        raise ModelNameError(
            f"model {name!r} names no weights; {_FORMS}"
            if architecture
            else f"model {name!r} names no architecture; {_FORMS}"
        )
    if ":" in architecture:  # open_clip would look for such a name on the hub
        raise ModelNameError(f"model {name!r} cannot be read; did you mean {rest!r}? {_FORMS}")
    if tag.startswith("/"):
        return OpenClipName(architecture=architecture, file=_file(name, architecture, tag[1:]))
    if "/" in tag:
        raise ModelNameError(
            f"model {name!r} cannot be read: a tag has no slash, a path follows two slashes, and an architecture has dashes "
            f"instead of slashes; {_FORMS}"
        )
    return OpenClipName(architecture=architecture, tag=tag)


def check_architecture(name: str, architecture: str) -> None:
    """Check from open_clip's files that it has an architecture; importing open_clip would take seconds.

    Raises:
        ModelNameError: open_clip does not have this architecture.
    """
    found = None if "open_clip" in sys.modules else find_spec("open_clip")  # after an import, more may exist
    places = found.submodule_search_locations if found is not None else None
    known = [path.stem for place in places or () for path in Path(place, "model_configs").glob("*.json")]
    if known and architecture not in known:
        raise no_architecture(name, architecture, known)


def check_tag(name: str, architecture: str, tag: str) -> None:
    """Check from the source of open_clip's table of weights that a tag exists; importing open_clip would take seconds.

    Raises:
        ModelNameError: No architecture has weights with this tag.
    """
    found = None if "open_clip" in sys.modules else find_spec("open_clip")
    known = table_tags(Path(found.origin)) if found is not None and found.origin is not None else []
    if known and tag.lower().replace("-", "_") not in known:
        near = get_close_matches(tag, known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModelNameError(f"model {name}: open_clip has no weights {tag} for {architecture}{hint}")


def table_tags(package: Path) -> list[str]:
    """Return the tags in the table of weights next to open_clip's `__init__.py`, or none if the table is missing."""
    table = package.with_name("pretrained.py")
    return re.findall(r"\b(\w+)=\w*(?:cfg|dict)\(", table.read_text(encoding="utf-8")) if table.is_file() else []


def no_architecture(name: str, architecture: str, known: Sequence[str]) -> ModelNameError:
    """Return the error for an architecture that open_clip does not have."""
    near = get_close_matches(architecture, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ModelNameError(f"model {name}: open_clip has no architecture {architecture}{hint}")


def _file(name: str, architecture: str, text: str) -> Path:
    path = Path(text).expanduser()
    if path.is_file():
        return path
    kind = "is a folder; name the file in it" if path.is_dir() else "does not exist"
    meant = Path("/", text)
    hint = f"; did you mean 'open_clip:{architecture}//{meant}'?" if meant != path and meant.is_file() else ""
    raise ModelNameError(f"the weights of model {name}: {path} {kind}{hint}")
