"""What an export's folder holds in addition to its graphs: the manifest, and a page that says how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..encoders.exported import LAYOUT, hashes, manifest_path, manifest_text
from ..encoders.facts import model_facts, preprocess_from
from ..encoders.kinds import EXPORTED
from ..encoders.two_tower import TwoTowerEncoder
from ..files import CALIBRATION
from ..system import package_version
from .gate import Parity

PARITY = "parity.json"
_LIBRARIES = ("torch", "transformers", "open-clip-torch", "onnx", "onnxruntime", "openvino")


def describe(folder: Path, facts: Mapping[str, Any], parities: list[Parity], *, passed: bool) -> dict[str, Any]:
    """Write the manifest of a folder whose other files are all there, and return it.

    Args:
        folder: The export.
        facts: What `facts_of` returned, with `tokens`, `format`, `precision` and the like.
        parities: How it compared with its source.
        passed: Whether it kept all bounds.
    """
    said = [parity.as_dict() for parity in parities]
    if parities:
        (folder / PARITY).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    place = manifest_path(folder, facts["format"])
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (place.name, CALIBRATION)
    )
    manifest = {**facts, "parity": {"passed": passed}, "files": hashes(folder, names)}
    place.write_text(text := manifest_text(manifest), encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def facts_of(encoder: TwoTowerEncoder, home: Path | None) -> dict[str, Any]:
    """Return what a manifest says of a model, whatever its export will be.

    Args:
        encoder: The model.
        home: Where its files are.
    """
    return {
        "model_type": EXPORTED,
        "layout": LAYOUT,
        "source": {"model": encoder.model, "revision": encoder.revision, "weights": encoder.weights},
        "licence": _licence(home),
        **model_facts(encoder),
        "versions": {"text_image_similarity": package_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _licence(home: Path | None) -> str | None:
    """Return the licence that a model card names, if there is one."""
    try:
        text = (home / "README.md").read_text(encoding="utf-8") if home else ""
    except (OSError, ValueError):
        return None
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    named = re.search(r"^license(?:_name)?:\s*[\"']?([\w.+-]+)", header[1], re.MULTILINE) if header else None
    return named[1] if named else None


# What a page for browsers calls things: CLIP's way, and that of models whose captions are filled up, SigLIP's.
WEB_NAMES = {
    False: {
        "image_class": "CLIPVisionModelWithProjection",
        "text_class": "CLIPTextModelWithProjection",
        "image_output": "image_embeds",
        "text_output": "text_embeds",
        "padding": "true",
    },
    True: {
        "image_class": "SiglipVisionModel",
        "text_class": "SiglipTextModel",
        "image_output": "pooler_output",
        "text_output": "pooler_output",
        "padding": '"max_length"',
    },
}


def card(manifest: Mapping[str, Any], parity: Parity) -> str:
    """Return the page that says what an export is and how to use it."""
    height, width = side(manifest)
    source, made = manifest["source"], manifest["format"]
    revision = f" at {source['revision']}" if source["revision"] else ""
    whole = manifest["tokens"]["whole"]
    length = manifest["context_length"] if whole else f"1 to {manifest['context_length']}"
    filled = (
        f"filled up with {manifest['tokens']['pad']} to {manifest['context_length']}" if whole else "cut at its end"
    )
    text = files(__package__).joinpath(f"card_{made}.md").read_text(encoding="utf-8")
    return text.format(
        source=source["model"],
        revision=revision,
        made=made,
        precision=manifest["precision"],
        height=height,
        width=width,
        length=length,
        filled=filled,
        pad=manifest["tokens"]["pad"],
        ids=_IDS[manifest["tokens"]["kind"]].format(length=manifest["context_length"]),
        embed_dim=manifest["embed_dim"],
        licence=manifest["licence"] or "that of the source, which names none here",
        pairs=parity.pairs,
        data=parity.data,
        image=f"{parity.image.cosine_min:.6f}",
        text=f"{parity.text.cosine_min:.6f}",
        score=f"{parity.score_max:.1e}",
        files="\n".join(f"- `{name}` ({facts['bytes']:,} bytes)" for name, facts in manifest["files"].items()),
        pillow=manifest["preprocess"]["pillow"],
        **(WEB_NAMES[whole] if made == "web" else {}),
    )


_IDS = {
    "tokenizers": 'ids = numpy.array([Tokenizer.from_file("tokenizer.json").encode("a dog on grass").ids])',
    "sentencepiece": 'ids = ...  # what SentencePieceProcessor(model_file="spiece.model") makes of a caption, filled up to {length}',
}


def side(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width of the images that a model takes."""
    return preprocess_from(manifest["preprocess"], fast=False).side
