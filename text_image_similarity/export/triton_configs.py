"""The `config.pbtxt` of each model of a Triton repository, as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..config import Limits
from ..encoders.facts import preprocess_from

CAPTION_STEP = 16  # captions are padded to multiples of so many tokens, so that the server finds such as have one shape
_PYTHON = ('backend: "python"', "KIND_CPU")
_RUNS = {
    "python": _PYTHON,
    "onnxruntime": ('backend: "onnxruntime"', "KIND_AUTO"),
    "tensorrt": ('platform: "tensorrt_plan"', "KIND_GPU"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What the configurations say.

    Args:
        digest: The export's.
        backend: What runs the towers.
        embed_dim: Width of the embeddings.
        preprocess, tokens: The export's rules.
        max_batch: Most rows of a batch.
        alone: Whether each row is encoded by itself.
        queue_delay_us, max_queue, queue_timeout_us: How long requests wait, and how many.
        max_caption_bytes: Longest caption.
        limits: Of pictures.
    """

    digest: str
    backend: str
    embed_dim: int
    preprocess: Mapping[str, Any]
    tokens: Mapping[str, Any]
    max_batch: int
    alone: bool
    queue_delay_us: int
    max_queue: int
    queue_timeout_us: int
    max_caption_bytes: int
    limits: Limits


def configs(how: Repository) -> dict[str, str]:
    """Return the text of each model's configuration, by the model's name."""
    pixels = tensor("pixels", "UINT8", pixel_shape(how.preprocess))
    whole = how.tokens["whole"]
    ids = tensor("input_ids", "INT64", (how.tokens["context_length"] if whole else -1,))
    image, text = (tensor(f"{tower}_embeds", "FP32", (how.embed_dim,)) for tower in ("image", "text"))
    picture, caption, score = (
        tensor("image", "STRING", (1,)),
        tensor("caption", "STRING", (1,)),
        tensor("similarity", "FP32", (1,)),
    )
    vectors = [tensor(f"{tower}_vector", "FP32", (how.embed_dim,)) for tower in ("image", "text")]
    limits = {name: getattr(how.limits, name) for name in ("max_bytes", "max_pixels", "max_side")}
    rules = {**limits, "max_caption_bytes": how.max_caption_bytes, "caption_step": CAPTION_STEP, "digest": how.digest}
    tower, runs = {"digest": how.digest, "alone": str(how.alone).lower()}, _RUNS[how.backend]
    usual = how.tokens["context_length"] if whole else min(CAPTION_STEP, how.tokens["context_length"])
    warm = _warm_up("pixels", "UINT8", pixel_shape(how.preprocess)), _warm_up("input_ids", "INT64", (usual,))
    return {
        "preprocess": _model("preprocess", _PYTHON, _ends([picture, caption], [pixels, ids], how), how, rules),
        "image": _model("image", runs, _ends([pixels], [image], how), how, tower, warm[0]),
        "text": _model("text", runs, _ends([ids], [text], how), how, tower, warm[1]),
        "similarity": _model("similarity", _PYTHON, _ends(vectors, [image, text, score], how), how, {"digest": how.digest}),
        "score": _ensemble(_ends([picture, caption], [image, text, score], how), how),
    }


def pixel_shape(preprocess: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of one picture for a model, (h, w, 3)."""
    return preprocess_from(preprocess, fast=False).pixels(Image.new("RGB", (64, 64))).shape


def tensor(name: str, kind: str, dims: tuple[int, ...]) -> str:
    """Describe an input or an output, whose shape is without the batch."""
    return f'  {{ name: "{name}" data_type: TYPE_{kind} dims: [ {", ".join(map(str, dims))} ] }}'


def _model(
    name: str, runs: tuple[str, str], ends: str, how: Repository, parameters: Mapping[str, Any], warm_up: str = ""
) -> str:
    said = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
    )
    return (
        f'name: "{name}"\n{runs[0]}\n{ends}'
        f"instance_group [ {{ kind: {runs[1]} count: 1 }} ]\n"
        "dynamic_batching {\n"
        f"  max_queue_delay_microseconds: {how.queue_delay_us}\n"
        "  default_queue_policy {\n"
        f"    timeout_action: REJECT default_timeout_microseconds: {how.queue_timeout_us} max_queue_size: {how.max_queue}\n"
        "  }\n}\n" + said + warm_up
    )


def _ends(taken: list[str], given: list[str], how: Repository) -> str:
    inputs, outputs = ",\n".join(taken), ",\n".join(given)
    return f"max_batch_size: {how.max_batch}\ninput [\n{inputs}\n]\noutput [\n{outputs}\n]\n"


def _warm_up(name: str, kind: str, shape: tuple[int, ...]) -> str:
    """Ask for a request that the server makes up before it is ready."""
    dims = ", ".join(map(str, shape))
    return (
        f'model_warmup [ {{ name: "usual" batch_size: 1 inputs {{ key: "{name}" value {{ '
        f"data_type: TYPE_{kind} dims: [ {dims} ] zero_data: true }} }} }} ]\n"
    )


def _ensemble(ends: str, how: Repository) -> str:
    # No tensor is both an output and a step's input: the server (2.51) then fails requests that want fewer outputs.
    steps = [
        ("preprocess", {"image": "image", "caption": "caption"}, {"pixels": "pixels", "input_ids": "input_ids"}),
        ("image", {"pixels": "pixels"}, {"image_embeds": "image_vector"}),
        ("text", {"input_ids": "input_ids"}, {"text_embeds": "text_vector"}),
        (
            "similarity",
            {name: name for name in ("image_vector", "text_vector")},
            {name: name for name in ("image_embeds", "text_embeds", "similarity")},
        ),
    ]
    said = ",\n".join(
        f'    {{ model_name: "{name}" model_version: -1\n'
        + "".join(f'      input_map {{ key: "{key}" value: "{value}" }}\n' for key, value in inputs.items())
        + "".join(f'      output_map {{ key: "{key}" value: "{value}" }}\n' for key, value in outputs.items())
        + "    }"
        for name, inputs, outputs in steps
    )
    digest = f'parameters {{ key: "digest" value {{ string_value: "{how.digest}" }} }}\n'
    scheduling = f"ensemble_scheduling {{\n  step [\n{said}\n  ]\n}}\n"
    return f'name: "score"\nplatform: "ensemble"\n{ends}{scheduling}{digest}'
