"""torch as a backend: a device, a precision, and batches that fit.

Images go to the device as bytes, from pinned memory where it is a GPU, and become numbers there: a quarter of the
transfer of float32. Nothing waits for the device before the last batch of a call is queued.

All batches have the same number of items, the last one filled up with copies, because the kernels that a library picks,
and with them the last digits, depend on the shape. So a vector depends on its image or caption alone, as long as the
device, the number of threads and `batch_size` are the same and nothing runs out of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError, DeviceLostError
from ..preprocess import Pixels, Preprocess
from ..similarity import Embeddings
from .fitting import Fit, in_fitting_parts, is_device_lost, is_out_of_memory
from .forks import adapt_to_fork
from .tokens import Ids, Tokens

T = TypeVar("T")
_WIDTH = 8  # captions are padded to multiples of so many tokens


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and in which precision a model runs."""

    device: torch.device
    dtype: torch.dtype


def choose_placement(config: Config) -> Placement:
    """Resolve `device="auto"` and `precision="auto"` on this machine.

    Raises:
        ConfigError: The device is not available, or does not support the precision.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    adapt_to_fork(device)
    there = {
        "cpu": 1,
        "mps": int(torch.backends.mps.is_available()),
        "cuda": torch.cuda.device_count(),
    }[device.type]
    if (device.index or 0) >= there:
        raise ConfigError(f"device={config.device!r} is not available: {_lack(device.type, there)}; use auto or cpu")
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision='fp16' needs CUDA or MPS; use auto or fp32 on the CPU")
    half = config.precision == "fp16" or (config.precision == "auto" and device.type != "cpu")
    return Placement(device, torch.float16 if half else torch.float32)


def _lack(kind: str, count: int) -> str:
    if count:
        return f"torch sees {count} such device{'s' * (count > 1)}, cuda:0{f' to cuda:{count - 1}' * (count > 1)}"
    if kind == "cuda" and not torch.backends.cuda.is_built():
        return f"the installed torch, {torch.__version__}, was built without CUDA"
    return "torch does not find such a device"


class Tower(nn.Module):
    """One half of a model.

    Args:
        model: The whole of it.
        encode: (model, values) -> features (n, embed_dim).
    """

    def __init__(self, model: nn.Module, encode: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.model = model
        self.encode = encode

    def forward(self, values: Tensor) -> Tensor:
        return self.encode(self.model, values)


class ImageTower(nn.Module):
    """An image tower that takes images as bytes and normalises them, always in float32.

    Args:
        tower: Normalised pixels (n, 3, h, w) -> features (n, embed_dim).
        preprocess: Holds the mean and deviation to normalise with.
        placement: Where the tower stands, and what it computes in.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, tower: nn.Module, preprocess: Preprocess, placement: Placement):
        super().__init__()
        self.tower = tower
        self.dtype = placement.dtype
        scale, shift = (
            torch.from_numpy(part).view(3, 1, 1).to(placement.device) for part in preprocess.scale_and_shift
        )
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # Floats first: TensorRT takes bytes as an input alone.
        values = pixels.float().permute(0, 3, 1, 2) * self.scale - self.shift  # (n, h, w, 3) -> (n, 3, h, w)
        features: Tensor = self.tower(values.to(self.dtype))
        return features


class BackendMemory:
    """What a backend learns while it runs.

    Attributes:
        `pictures`, `captions`: How many of them fit.
        lost: What the device said when it failed.
        clock: What is entered while the device is given a batch to compute, for measurements.
    """

    def __init__(self) -> None:
        self.pictures, self.captions = Fit(), Fit()
        self.lost: str | None = None
        self.clock: Callable[[], AbstractContextManager[object]] = nullcontext
        self._lock = Lock()
        self._wide: tuple[ImageTower, nn.Module] | None = None

    def wide(self, image: ImageTower, text: nn.Module) -> tuple[ImageTower, nn.Module]:
        """Return the towers in float32, copied when they are first asked for."""
        with self._lock:
            if self._wide is None:
                copied_image, copied_text = deepcopy((image, text))  # together: they may share a model
                copied_image.dtype = torch.float32
                self._wide = copied_image.float(), copied_text.float()
            return self._wide


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """Two towers on a device.

    Out of memory halves the batch and keeps what is finished. Rows that float16 makes infinite are computed once more in
    float32. A device that fails altogether raises `DeviceLostError`, at once and for every later call.

    Args:
        placement: Where and in which precision they run.
        image_tower: Bytes (n, h, w, 3) on the device -> features (n, embed_dim).
        text_tower: Padded token ids (n, t) on the device -> features (n, embed_dim).
        tokens: What pads the ids.
        images: How many images it takes at once, or None for as many as are given.
        captions: The same of captions.
        learned: What it finds out on its way.
    """

    placement: Placement
    image_tower: ImageTower
    text_tower: nn.Module
    tokens: Tokens
    pictures: int | None = None
    captions: int | None = None
    learned: BackendMemory = field(default_factory=BackendMemory)

    @property
    def name(self) -> str:
        return "torch"

    @property
    def device(self) -> str:
        return str(self.placement.device)

    @property
    def batch_invariant(self) -> bool:
        return False  # last digits may depend on the place in a batch, and on the batch that ran out of memory

    @property
    def precision(self) -> str:
        return "fp16" if self.placement.dtype == torch.float16 else "fp32"

    @property
    def weight_bytes(self) -> int:
        towers = nn.ModuleList([self.image_tower, self.text_tower])  # which may share a model
        return sum(part.nbytes for part in (*towers.parameters(), *towers.buffers()))

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        def batches(items: Sequence[Pixels]) -> Iterator[NDArray[Any]]:
            step = self.pictures or len(items)
            return (np.stack(items[start : start + step]) for start in range(0, len(items), step))

        return self._run(batches, pixels, of=0)

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        def batches(items: Sequence[Ids]) -> Iterator[NDArray[Any]]:
            return self.tokens.batches(items, most=self.captions or len(items), step=_WIDTH)

        return self._run(batches, rows, of=1)

    def _sent(self, batch: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(batch)
        if self.placement.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.placement.device, non_blocking=True)

    @torch.inference_mode()
    def _run(
        self, batches: Callable[[Sequence[T]], Iterable[NDArray[Any]]], items: Sequence[T], *, of: int
    ) -> Embeddings:
        """Encode items with the tower of images (`of` 0) or of captions (1)."""
        adapt_to_fork(self.placement.device)
        if self.learned.lost is not None:
            raise self._lost(self.learned.lost)
        towers = self.image_tower, self.text_tower
        fit = (self.learned.pictures, self.learned.captions)[of]
        try:
            features = self._features(towers, batches(items), fit, of)
            if self.placement.dtype == torch.float16:
                self._recompute_overflowed(features, batches, items, of)
        except RuntimeError as exc:
            if not is_device_lost(exc):
                raise
            self.learned.lost = str(exc).partition("\n")[0]
            raise self._lost(self.learned.lost) from exc
        return features

    def _recompute_overflowed(
        self,
        features: Embeddings,
        batches: Callable[[Sequence[T]], Iterable[NDArray[Any]]],
        items: Sequence[T],
        of: int,
    ) -> None:
        """Compute rows that are not finite once more, in float32; they stay as they are if there is no memory for that."""
        spoilt = [i for i, row in enumerate(features) if not np.isfinite(row).all()]
        if not spoilt:
            return
        try:
            wide = self.learned.wide(self.image_tower, self.text_tower)
            features[spoilt] = self._features(wide, batches([items[i] for i in spoilt]), Fit(), of)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise

    def _features(
        self, towers: tuple[nn.Module, nn.Module], batches: Iterable[NDArray[Any]], fit: Fit, of: int
    ) -> Embeddings:
        def encode(part: NDArray[Any]) -> Tensor:
            sent = self._sent(part)
            with self.learned.clock():
                features: Tensor = towers[of](sent)
            return features

        count = (self.pictures, self.captions)[of]
        found = [
            torch.cat(in_fitting_parts(encode, _filled(batch, count or 0), fit))[: len(batch)] for batch in batches
        ]
        features: Embeddings = torch.cat(found).float().cpu().numpy()
        return features

    def _lost(self, said: str) -> DeviceLostError:
        return DeviceLostError(
            f"the device {self.device} has failed ({said}) and this process cannot use it any longer; start again in a new"
            " process, or with device='cpu'"
        )


def _filled(batch: NDArray[Any], count: int) -> NDArray[Any]:
    """Repeat a batch's last item until there are so many."""
    lacking = count - len(batch)
    return batch if lacking <= 0 else np.concatenate([batch, batch[-1:].repeat(lacking, axis=0)])
