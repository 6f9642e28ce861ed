"""The names that only open_clip's models have, and how they are read. No library is loaded.

- `open_clip:ARCHITECTURE/TAG`: weights that open_clip's table knows, such as `open_clip:ViT-B-32/laion2b_s34b_b79k`.
- `open_clip:ARCHITECTURE//PATH`: a file of weights. PATH is what follows the two slashes, as a shell would read it: relative
  to the working directory, or absolute, which makes three slashes.
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


def check_architecture(name: str, architecture: str) -> None:
    """Make sure that open_clip has an architecture, by its files: to import it takes seconds.

    Raises:
        ModelNameError: It does not.
    """
    found = None if "open_clip" in sys.modules else find_spec("open_clip")  # once imported, it may know more
    places = found.submodule_search_locations if found is not None else None
    known = [path.stem for place in places or () for path in Path(place, "model_configs").glob("*.json")]
    if known and architecture not in known:
        raise no_architecture(name, architecture, known)


def check_tag(name: str, architecture: str, tag: str) -> None:
    """Make sure that a tag is in open_clip's table of weights, by the table's text: to import it takes seconds.

    Raises:
        ModelNameError: No architecture has weights of this tag.
    """
    found = None if "open_clip" in sys.modules else find_spec("open_clip")
    known = table_tags(Path(found.origin)) if found is not None and found.origin is not None else []
    if known and tag.lower().replace("-", "_") not in known:
        near = get_close_matches(tag, known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModelNameError(f"model {name}: open_clip knows no weights {tag} of {architecture}{hint}")


def table_tags(package: Path) -> list[str]:
    """Return the tags in the table of weights next to open_clip's `__init__.py`; none if there is no such file."""
    table = package.with_name("pretrained.py")
    return re.findall(r"\b(\w+)=\w*(?:cfg|dict)\(", table.read_text(encoding="utf-8")) if table.is_file() else []


def no_architecture(name: str, architecture: str, known: Sequence[str]) -> ModelNameError:
    """Return the error of an architecture that is not one of those that open_clip has."""
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
