"""Run models with TensorRT, from plans that `build_plans.sh` built on this GPU.

This module is written for the APIs of TensorRT 10 and 11 and of `cuda.bindings`, and tested with substitutes for both;
it has not been run on a GPU. A plan for another GPU, another version of TensorRT or other graphs is refused before
TensorRT reads it, because reading such a plan can end in anything from an error to a crash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, ModelError
from ..preprocess import Pixels
from ..similarity import Embeddings
from ..system import is_installed
from .tokens import Ids, Tokens

_BUILD = "run build_plans.sh in {folder} on this machine"


@dataclass(frozen=True, slots=True)
class TensorRtBackend:
    """A backend that runs two towers on an NVIDIA GPU.

    Args:
        image_plan, text_plan: The plans of the towers.
        tokens: `Tokens` that pad the ids.
        precision: Precision of the graphs.
        device: `cuda:N`.
        weight_bytes: Size of the plans in bytes.
    """

    image_plan: TensorRtPlan
    text_plan: TensorRtPlan
    tokens: Tokens
    precision: str
    device: str
    weight_bytes: int

    @property
    def name(self) -> str:
        return "tensorrt"

    @property
    def batch_invariant(self) -> bool:
        return False  # the kernels may depend on the number of items

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        most = self.image_plan.profiles[0].batch
        parts = [np.stack(pixels[start : start + most]) for start in range(0, len(pixels), most)]
        return np.concatenate([self.image_plan.run(part, 0) for part in parts])

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        found = []
        profiles = self.text_plan.profiles
        for number, group in groupby(rows, self._profile):
            alike, most = list(group), profiles[number].batch
            parts = (alike[start : start + most] for start in range(0, len(alike), most))
            width = profiles[number].shape[0]
            found += [self.text_plan.run(self.tokens.padded(part, width), number) for part in parts]
        return np.concatenate(found)

    def _profile(self, row: Ids) -> int:
        """Return the number of the narrowest profile that a caption fits into."""
        widths = [profile.shape[0] for profile in self.text_plan.profiles]
        if self.tokens.whole:
            return len(widths) - 1
        return next(number for number, width in enumerate(widths) if len(row) <= width)


@dataclass(frozen=True, slots=True)
class Profile:
    """A shape that a plan has kernels for.

    Args:
        shape: Shape of one item.
        batch: Largest number of items per call.
    """

    shape: tuple[int, ...]
    batch: int


class TensorRtPlan:
    """A plan on the GPU, with memory for its largest batch; it runs one call at a time.

    Args:
        engine: TensorRT's `ICudaEngine`.
        profiles: The plan's profiles, in the plan's order, which is narrowest first.
        memory: Object that copies arrays to the GPU and back.
    """

    def __init__(self, engine: Any, profiles: Sequence[Profile], memory: Cuda) -> None:
        self.profiles = profiles
        self._memory, self._stream, self._lock = memory, memory.stream(), Lock()
        self._given, self._made = (engine.get_tensor_name(number) for number in range(2))  # inputs come first
        self._width = int(engine.get_tensor_shape(self._made)[-1])
        self._contexts = []
        for number in range(len(profiles)):
            context = engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(number, self._stream):
                raise ModelError(f"TensorRT does not have enough memory for profile {number} of a plan")
            self._contexts.append(context)
        widest = max(profile.batch * int(np.prod(profile.shape)) for profile in profiles)
        item = 1 if len(profiles[0].shape) > 1 else 8  # bytes of a value, uint8 pixels or int64 ids
        self._input = memory.allocate(widest * item)
        self._output = memory.allocate(max(profile.batch for profile in profiles) * self._width * 4)

    def run(self, batch: NDArray[Any], profile: int) -> Embeddings:
        """Return the embeddings (n, d), float32, of a batch that fits a profile.

        Raises:
            RuntimeError: The GPU failed.
        """
        found = np.empty((len(batch), self._width), np.float32)
        batch = np.ascontiguousarray(batch)
        with self._lock:
            context = self._contexts[profile]
            context.set_input_shape(self._given, batch.shape)
            context.set_tensor_address(self._given, self._input)
            context.set_tensor_address(self._made, self._output)
            self._memory.to_gpu(self._input, batch, self._stream)
            if not context.execute_async_v3(self._stream):
                raise RuntimeError(f"TensorRT could not run a batch of shape {batch.shape}")
            self._memory.from_gpu(found, self._output, self._stream)
            self._memory.wait(self._stream)
        return found


class Cuda:
    """The CUDA runtime calls that a plan needs.

    Args:
        runtime: The module `cuda.bindings.runtime`.
        device: Number of the GPU.
    """

    def __init__(self, runtime: Any, device: int) -> None:
        self._runtime, self._device = runtime, device
        self._call("cudaSetDevice", device)

    @property
    def gpu(self) -> str:
        """Name of the GPU."""
        name = self._call("cudaGetDeviceProperties", self._device).name
        return str(name.decode() if isinstance(name, bytes) else name).rstrip("\0").strip()

    def stream(self) -> int:
        """Create a stream, and return its handle."""
        return int(self._call("cudaStreamCreate"))

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU until the process ends, and return their address."""
        return int(self._call("cudaMalloc", size))

    def to_gpu(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy an array to the GPU."""
        self._call("cudaSetDevice", self._device)  # the device is set per thread
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def from_gpu(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy data from the GPU into an array."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def wait(self, stream: int) -> None:
        """Wait until all work on a stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def _call(self, name: str, *given: Any) -> Any:
        error, *found = getattr(self._runtime, name)(*given)
        if int(error):
            raise RuntimeError(f"CUDA: {name} failed with {error}")
        return found[0] if found else None


def open_tensorrt(folder: Path, tokens: Tokens, precision: str, *, device: int = 0) -> TensorRtBackend:
    """Open the plans of an export.

    Args:
        folder: Folder with `image.plan`, `text.plan`, their manifests, and the graphs that they were built from.
        tokens: `Tokens` that pad the ids.
        precision: Precision of the export, `fp32` or `fp16`.
        device: Number of the GPU.

    Raises:
        ModelError: A plan is missing or damaged, or was built for another GPU, TensorRT or graph.
        MissingExtraError: TensorRT or the bindings for CUDA are not installed.
    """
    if not (
        is_installed("tensorrt") and is_installed("cuda")
    ):  # no extra includes these libraries, because they must match the driver
        raise MissingExtraError(f"running {folder} needs TensorRT and CUDA: pip install tensorrt cuda-bindings")
    tensorrt = import_module("tensorrt")
    memory = Cuda(import_module("cuda.bindings.runtime"), device)
    found = {tower: _checked(folder, tower, memory.gpu, tensorrt.__version__) for tower in ("image", "text")}
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
    plans, size = {}, 0
    for tower, profiles in found.items():
        content = (folder / f"{tower}.plan").read_bytes()
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise ModelError(f"TensorRT cannot read {folder / tower}.plan; {_BUILD.format(folder=folder)}")
        plans[tower], size = TensorRtPlan(engine, profiles, memory), size + len(content)
    return TensorRtBackend(plans["image"], plans["text"], tokens, precision, f"cuda:{device}", size)


def _checked(folder: Path, tower: str, gpu: str, version: str) -> list[Profile]:
    """Check that a plan was built for this GPU, this TensorRT and these graphs, and return its profiles."""
    plan, build = folder / f"{tower}.plan", _BUILD.format(folder=folder)
    try:
        facts = json.loads(Path(f"{plan}.json").read_text(encoding="utf-8"))
        made_of, made_on, made_by = dict(facts["onnx"]), facts["gpu"], facts["tensorrt"]
        profiles = [Profile(tuple(profile["shape"]), profile["batch"]) for profile in facts["profiles"]]
        content = _hash(plan)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
        raise ModelError(f"{plan} or its manifest cannot be read: {exc}; {build}") from exc
    if made_on != gpu:
        raise ModelError(f"{plan} was built on {made_on}, but this GPU is {gpu}; {build}")
    if made_by.split(".")[:3] != version.split(".")[:3]:
        raise ModelError(f"{plan} was built by TensorRT {made_by}, but {version} is installed; {build}")
    if content != facts["plan"]:
        raise ModelError(f"{plan} is damaged; {build}")
    if not made_of or {name: _hash(folder / name) for name in made_of} != made_of:
        raise ModelError(f"{plan} was built from another {tower}.onnx; {build}")
    return profiles


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
