"""An export as a model repository for NVIDIA's Triton Inference Server.

    preprocess   picture and caption as bytes -> pixels, input_ids        python backend
    image, text  the towers -> image_embeds, text_embeds                  onnxruntime, tensorrt or python backend
    similarity   embeddings -> their cosine, and themselves                               python backend
    score        all of them, one after the other                         ensemble

A TensorRT plan is bound to a GPU and a version, so none is written here, but the graphs and the script that builds plans.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from ..config import Limits, at_least, one_of
from ..encoders.exported import check_files, read_manifest
from ..errors import ConfigError, ModelError
from .triton_configs import Repository, configs, pixel_shape

TritonBackend = Literal["onnxruntime", "tensorrt", "python"]

_PACKAGE = Path(__file__).resolve().parent.parent
# What the python models import: whole rooms, as they are.
_ROOMS = ("decode", "encoders", "export/triton_models")
_FILES = ("__init__", "config", "errors", "export/__init__", "files", "preprocess", "records", "similarity", "system")
_MODEL = '''"""What Triton runs; the package beside is a copy of parts of text_image_similarity."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from text_image_similarity.export.triton_models.{module} import {name} as TritonPythonModel  # noqa: E402, F401
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonOptions:
    """How a model repository serves.

    Args:
        backend: What runs the towers: `onnxruntime` or `tensorrt`, backends of NVIDIA's images, or `python`, ONNX Runtime on
            the CPU in the python backend, which every server has.
        max_batch: Most pairs that the server puts together.
        queue_delay_us: Microseconds that it waits for more of them.
        max_queue: Requests that may wait at a model; further ones are refused.
        queue_timeout_s: Seconds that a request may wait there.
        max_caption_bytes: Longest caption, in bytes of UTF-8.
        limits: `max_bytes`, `max_pixels` and `max_side` of pictures are used.

    Raises:
        ConfigError: A value is outside its choices or range.
    """

    backend: TritonBackend = "onnxruntime"
    max_batch: int = 32
    queue_delay_us: int = 1000
    max_queue: int = 1024
    queue_timeout_s: int = 10
    max_caption_bytes: int = 65536
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        one_of("backend", self.backend, get_args(TritonBackend))
        for name in ("max_batch", "max_queue", "queue_timeout_s", "max_caption_bytes"):
            at_least(name, getattr(self, name), 1)
        at_least("queue_delay_us", self.queue_delay_us, 0)


def write_triton(folder: Path, out: Path, options: TritonOptions | None = None) -> None:
    """Write a model repository of an export for ONNX Runtime.

    Args:
        folder: The export.
        out: Where to write it: an empty folder, or none.
        options: How it serves.

    Raises:
        ConfigError: The export cannot be served that way.
        ModelError: It is damaged, or not for ONNX Runtime.
    """
    options, manifest = options or TritonOptions(), read_manifest(folder)
    check_files(folder, manifest)
    if manifest["format"] != "onnx":
        raise ModelError(
            f"the export in {folder} is for {manifest['format']}; Triton's repository is made of one for onnx"
        )
    if options.backend == "tensorrt" and manifest["precision"] == "int8":
        raise ConfigError("TensorRT takes exports in fp32 or fp16, not in int8; export the model again")
    for name, text in configs(_repository(manifest, options)).items():
        version = out / name / "1"
        version.mkdir(parents=True)  # an ensemble's is empty
        (version.parent / "config.pbtxt").write_text(text, encoding="utf-8")
    _write_python(out / "preprocess" / "1", "preprocess")
    _write_python(out / "similarity" / "1", "similarity")
    _write_rules(folder, manifest, out / "preprocess" / "1")
    for tower in ("image", "text"):
        _write_tower(folder, out / tower, options.backend)
    (out / "score" / "1" / ".keep").touch()  # what carries folders away drops empty ones
    if options.backend == "tensorrt":
        script = out / "build_plans.sh"
        script.write_text(_plans(manifest, options), encoding="utf-8")
        script.chmod(0o755)
    (out / "README.md").write_text(_page(manifest, options), encoding="utf-8")


def _repository(manifest: Mapping[str, Any], options: TritonOptions) -> Repository:
    # Activations of int8 are rounded to the range of what is encoded together, and neighbours must not move a score.
    alone = manifest["precision"] == "int8" and manifest["recipe"] != "weights"
    own_loop = options.backend == "python"  # which encodes one at a time of what came together
    return Repository(
        digest=manifest["digest"],
        backend=options.backend,
        embed_dim=manifest["embed_dim"],
        preprocess=manifest["preprocess"],
        tokens=manifest["tokens"],
        max_batch=1 if alone and not own_loop else options.max_batch,
        alone=alone,
        queue_delay_us=options.queue_delay_us,
        max_queue=options.max_queue,
        queue_timeout_us=options.queue_timeout_s * 1_000_000,
        max_caption_bytes=options.max_caption_bytes,
        limits=options.limits,
    )


def _write_python(version: Path, module: str) -> None:
    """Write a model of the python backend, with the parts of this package that it runs."""
    (version / "model.py").write_text(
        _MODEL.format(module=module, name=f"{module.capitalize()}Model"), encoding="utf-8"
    )
    copies = [Path(f"{name}.py") for name in _FILES]
    for room in _ROOMS:
        copies += [path.relative_to(_PACKAGE) for path in sorted((_PACKAGE / room).glob("*.py"))]
    for name in copies:
        target = version / _PACKAGE.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_PACKAGE / name, target)


def _write_rules(folder: Path, manifest: Mapping[str, Any], version: Path) -> None:
    """Write what says how pictures and captions are read."""
    facts = {name: manifest[name] for name in ("source", "digest", "precision", "preprocess", "tokens")}
    (version / "export.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for name in manifest["files"]:
        if name in ("tokenizer.json", "spiece.model"):
            shutil.copyfile(folder / name, version / name)


def _write_tower(folder: Path, model: Path, backend: TritonBackend) -> None:
    """Write a tower's graph; for TensorRT beside the version's folder, into which its plan goes."""
    place = model if backend == "tensorrt" else model / "1"
    shutil.copyfile(folder / f"{model.name}.onnx", place / "model.onnx")
    for data in folder.glob(f"{model.name}.onnx*"):
        if data.suffix != ".onnx":  # weights above 2 GB, which the graph calls by that name
            shutil.copyfile(data, place / data.name)
    if backend == "tensorrt":
        (model / "1" / ".keep").touch()
    if backend == "python":
        _write_python(model / "1", "tower")


def _plans(manifest: Mapping[str, Any], options: TritonOptions) -> str:
    longest, text = manifest["tokens"]["context_length"], (files(__package__) / "triton_plans.sh").read_text("utf-8")
    shape = "x".join(map(str, pixel_shape(manifest["preprocess"])))
    lengths = (longest, longest) if manifest["tokens"]["whole"] else (1, longest)
    return text.format(
        most=options.max_batch, usual=max(1, options.max_batch // 4), shape=shape, short=lengths[0], long=lengths[1]
    )


def _page(manifest: Mapping[str, Any], options: TritonOptions) -> str:
    page = (files(__package__) / "card_triton.md").read_text("utf-8")
    said = {
        "source": manifest["source"]["model"],
        "backend": options.backend,
        "digest": manifest["digest"],
        "embed_dim": manifest["embed_dim"],
        "pillow": manifest["preprocess"]["pillow"],
        "max_bytes": f"{options.limits.max_bytes:,}",
        "max_pixels": f"{options.limits.max_pixels:,}",
    }
    for name, value in said.items():
        page = page.replace(f"@{name}@", str(value))
    return page
