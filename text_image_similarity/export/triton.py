"""Turn an export for ONNX Runtime into a model repository for NVIDIA's Triton Inference Server.

The repository has five models: `preprocess` (from encoded images and captions to pixels and token ids), the towers
`image` and `text`, `similarity`, and `score`, the ensemble of the others. Preprocessing runs this package's own files,
which are copied to the repository unchanged. The towers run on Triton's onnxruntime backend, on TensorRT plans, or on
ONNX Runtime in the python backend.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Limits
from .folder import side
from .options import TritonBackend

_PACKAGE = Path(__file__).resolve().parent.parent
_PROGRAMS = Path(__file__).resolve().parent / "triton_models"
# Modules that the copied programs import; they need no heavy library.
_ROOMS = (
    "__init__.py",
    "bounded_json.py",
    "checks.py",
    "config.py",
    "errors.py",
    "files.py",
    "preprocess.py",
    "records.py",
    "similarity.py",
    "system.py",
)
_FOLDERS = ("decode", "encoders", "folders", "resize")
_VERSION = "1"
_DELAY_US = 5_000  # how long a batch waits for more requests
_QUEUE = 1_024  # longest queue; any more requests are refused
_TIMEOUT_US = 30_000_000
_TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32", "bytes": "TYPE_STRING"}

Tensors = Mapping[str, tuple[str, Sequence[int]]]  # name -> type and shape of an item; -1 is any length


def write_triton(made: Path, facts: Mapping[str, Any], backend: TritonBackend, max_batch: int) -> None:
    """Turn a folder with the graphs and tokens of an export into a model repository.

    Args:
        made: The folder.
        facts: The entries of the export's manifest.
        backend: Triton's backend for the towers.
        max_batch: Largest number of items in a batch.
    """
    height, width = side(facts)
    pixels = {"pixels": ("uint8", (height, width, 3))}
    ids = {"input_ids": ("int64", (_width(facts),))}
    embeds = {tower: {f"{tower}_embeds": ("float32", (facts["embed_dim"],))} for tower in ("image", "text")}
    similarity = {"similarity": ("float32", (1,))}
    asked = {"image": ("bytes", (1,)), "caption": ("bytes", (1,))}
    for tower, taken in (("image", pixels), ("text", ids)):
        _write_tower(made, tower, backend, _config(tower, taken, embeds[tower], max_batch, backend))
    _write_preprocess(made, facts, _config("preprocess", asked, {**pixels, **ids}, max_batch, "python"))
    both = {**embeds["image"], **embeds["text"]}
    vectors = {f"{tower}_vector": ("float32", (facts["embed_dim"],)) for tower in ("image", "text")}
    _write_program(made, "similarity", _config("similarity", vectors, {**both, **similarity}, max_batch, "python"))
    folder = made / "score" / _VERSION
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(
        "An ensemble has no files of its own.\n", encoding="utf-8"
    )  # Git does not store empty folders
    score = _config("score", asked, {**both, **similarity}, max_batch, None) + _STEPS
    (folder.parent / "config.pbtxt").write_text(score, encoding="utf-8")


def text_widths(facts: Mapping[str, Any]) -> list[int]:
    """Return the lengths, in tokens, to which captions are padded; captions of similar length can share a batch."""
    most: int = facts["tokens"]["context_length"]
    return [most] if facts["tokens"]["whole"] else [width for width in (16, 32) if width < most] + [most]


def _width(facts: Mapping[str, Any]) -> int:
    widths = text_widths(facts)
    return widths[0] if len(widths) == 1 else -1


def _write_tower(made: Path, tower: str, backend: TritonBackend, config: str) -> None:
    folder = made / tower / _VERSION
    folder.mkdir(parents=True)
    graph = made / f"{tower}.onnx"
    for data in made.glob(f"{graph.name}.*"):  # the weights of graphs larger than 2 GB
        data.rename(folder / data.name)
    graph.rename(folder / "model.onnx")
    if backend == "python":
        _copy_program("tower", folder)
        _copy_package(folder)
    (folder.parent / "config.pbtxt").write_text(config, encoding="utf-8")


def _write_preprocess(made: Path, facts: Mapping[str, Any], config: str) -> None:
    folder = _write_program(made, "preprocess", config)
    for name in ("tokenizer.json", "spiece.model"):
        if (made / name).is_file():
            shutil.copyfile(made / name, folder / name)
    limits = {name: getattr(Limits(), name) for name in ("max_bytes", "max_pixels", "max_side")}
    said = {
        "preprocess": facts["preprocess"],
        "tokens": facts["tokens"],
        "widths": text_widths(facts),
        "limits": limits,
    }
    (folder / "facts.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _write_program(made: Path, name: str, config: str) -> Path:
    folder = made / name / _VERSION
    folder.mkdir(parents=True)
    _copy_program(name, folder)
    _copy_package(folder)
    (folder.parent / "config.pbtxt").write_text(config, encoding="utf-8")
    return folder


def _copy_program(name: str, folder: Path) -> None:
    shutil.copyfile(_PROGRAMS / f"{name}.py", folder / "model.py")


def _copy_package(folder: Path) -> None:
    target = folder / _PACKAGE.name
    target.mkdir()
    for room in _ROOMS:
        shutil.copyfile(_PACKAGE / room, target / room)
    for room in _FOLDERS:
        shutil.copytree(_PACKAGE / room, target / room, ignore=shutil.ignore_patterns("__pycache__"))


def _config(name: str, taken: Tensors, given: Tensors, max_batch: int, backend: str | None) -> str:
    """Return a model's `config.pbtxt`; a model without a backend is an ensemble."""
    kind = {None: 'platform: "ensemble"', "tensorrt": 'platform: "tensorrt_plan"'}.get(backend, f'backend: "{backend}"')
    lines = [
        f'name: "{name}"',
        kind,
        f"max_batch_size: {max_batch}",
        _tensors("input", taken),
        _tensors("output", given),
    ]
    if backend is not None:
        where = "KIND_CPU" if backend == "python" or name in ("preprocess", "similarity") else "KIND_AUTO"
        lines += [f"instance_group [ {{ count: 1 kind: {where} }} ]", _BATCHING]
    if name in ("image", "text"):
        lines.append(_warm_up(taken))
    return "\n".join(lines) + "\n"


def _tensors(role: str, tensors: Tensors) -> str:
    said = ", ".join(
        f'{{ name: "{name}" data_type: {_TYPES[kind]} dims: [ {", ".join(map(str, shape))} ] }}'
        for name, (kind, shape) in tensors.items()
    )
    return f"{role} [ {said} ]"


def _warm_up(taken: Tensors) -> str:
    ((name, (kind, shape)),) = taken.items()
    dims = ", ".join(str(16 if length < 0 else length) for length in shape)
    value = f"value {{ data_type: {_TYPES[kind]} dims: [ {dims} ] zero_data: true }}"
    return f'model_warmup [ {{ name: "zeros" batch_size: 1 inputs {{ key: "{name}" {value} }} }} ]'


_BATCHING = f"""dynamic_batching {{
  max_queue_delay_microseconds: {_DELAY_US}
  default_queue_policy {{ timeout_action: REJECT default_timeout_microseconds: {_TIMEOUT_US} max_queue_size: {_QUEUE} }}
}}"""

# The embeddings pass through `similarity`, because the server (2.51) fails a request for some of the outputs if one of
# them is also an input of a step.
_STEPS = """ensemble_scheduling {
  step [
    {
      model_name: "preprocess" model_version: -1
      input_map { key: "image" value: "image" }
      input_map { key: "caption" value: "caption" }
      output_map { key: "pixels" value: "pixels" }
      output_map { key: "input_ids" value: "input_ids" }
    },
    {
      model_name: "image" model_version: -1
      input_map { key: "pixels" value: "pixels" }
      output_map { key: "image_embeds" value: "image_vector" }
    },
    {
      model_name: "text" model_version: -1
      input_map { key: "input_ids" value: "input_ids" }
      output_map { key: "text_embeds" value: "text_vector" }
    },
    {
      model_name: "similarity" model_version: -1
      input_map { key: "image_vector" value: "image_vector" }
      input_map { key: "text_vector" value: "text_vector" }
      output_map { key: "image_embeds" value: "image_embeds" }
      output_map { key: "text_embeds" value: "text_embeds" }
      output_map { key: "similarity" value: "similarity" }
    }
  ]
}
"""
