"""`models`: list the models that have a short name, and those in this machine's cache of the hub."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_log_format
from .terminal import lay_out_table

if TYPE_CHECKING:
    from ..encoders import CachedModel


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model in the list.

    Args:
        name: The name to pass as `--model`.
        dimension: Length of an embedding; None if it is not known.
        size_mb: Size of the download, or of the files on disk, in megabytes (10^6 bytes); None if it is not known.
        languages: Languages of captions that the model understands; empty if they are not known.
        licence: Licence of the weights; empty if it is not known.
        source: Origin of the model.
        here: Whether the model is already on this machine.
    """

    name: str
    dimension: int | None
    size_mb: int | None
    languages: str
    licence: str
    source: str
    here: bool


# The licence of the weights is in OpenAI's repository, openai/CLIP on GitHub.
_ALIASES = {"fast": (512, 605), "accurate": (768, 1711)}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "List the models with a short name, and those in this machine's cache of the hub."
    command = commands.add_parser("models", help=text, description=text)
    command.add_argument("--json", action="store_true", help="write one JSON object per line")
    add_log_format(command)
    command.set_defaults(run=run, quiet=False)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    found = list(listed_models())
    if options.json:
        sys.stdout.write("".join(f"{json.dumps(asdict(model))}\n" for model in found))
        return 0
    heads = ["dimension", "MB", "name", "languages", "licence", "here", "source"]
    rows = [
        [
            str(model.dimension or "?"),
            str(model.size_mb or "?"),
            model.name,
            model.languages or "see its card",
            model.licence or "see its card",
            "yes" if model.here else "no",
            model.source,
        ]
        for model in found
    ]
    table = lay_out_table(heads, rows, numbers=2)
    sys.stdout.write(f"{table}\n\nfor other models, on the hub, in folders or from open_clip, see docs/models.md\n")
    return 0


def listed_models() -> Iterator[ListedModel]:
    """Yield the models with a short name, and then those in the hub's cache that this package can load."""
    from ..encoders import cached_models, model_folder, resolve_model

    mini = model_folder("mini")
    shape = json.loads((mini / "config.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in Path(mini).iterdir())
    yield ListedModel("mini", shape["embed_dim"], _megabytes(size), "English", "MIT", "in this package", True)
    cached: dict[tuple[str, str | None], CachedModel] = {(model.name, model.commit): model for model in cached_models()}
    for alias, (dimension, size_mb) in _ALIASES.items():
        pinned = resolve_model(alias, None)
        here = cached.pop(pinned, None) is not None
        yield ListedModel(alias, dimension, size_mb, "English", "MIT", f"hub: {pinned[0]}", here)
    for model in cached.values():
        source = f"hub, commit {model.commit[:7]}"
        yield ListedModel(model.name, model.dimension, _megabytes(model.size), "", "", source, True)


def _megabytes(size: int) -> int:
    return round(size / 1e6)
