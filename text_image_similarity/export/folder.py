"""Write an export's other files: the manifest, and a page that explains how to use the export."""

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
    """Write the manifest of an export whose other files are complete, and return it.

    Args:
        folder: The export.
        facts: The result of `facts_of`, with `tokens`, `format`, `precision` and so on.
        parities: Comparisons of the export with its source.
        passed: Whether the export is within all bounds.
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
    """Return the entries of a manifest that describe the model and do not depend on the target.

    Args:
        encoder: The model.
        home: Folder of the model's files, or None.
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
    """Return the licence that the model card names, or None."""
    try:
        text = (home / "README.md").read_text(encoding="utf-8") if home else ""
    except (OSError, ValueError):
        return None
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    named = re.search(r"^license(?:_name)?:\s*[\"']?([\w.+-]+)", header[1], re.MULTILINE) if header else None
    return named[1] if named else None


# Names on the page for browsers: those of CLIP, and those of models that pad all captions, as SigLIP does.
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
    """Return the page that describes an export and says how to use it."""
    height, width = side(manifest)
    source, made = manifest["source"], manifest["format"]
    revision = f" at {source['revision']}" if source["revision"] else ""
    whole = manifest["tokens"]["whole"]
    length = manifest["context_length"] if whole else f"1 to {manifest['context_length']}"
    filled = f"padded with {manifest['tokens']['pad']} to {manifest['context_length']}" if whole else "cut at the end"
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
        licence=manifest["licence"] or "not stated by the source",
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
    "sentencepiece": 'ids = ...  # a caption tokenized with SentencePieceProcessor(model_file="spiece.model"), padded to {length}',
}


def side(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width of the images that a model takes."""
    return preprocess_from(manifest["preprocess"], fast=False).side
