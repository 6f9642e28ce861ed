"""Run models on torch, on a chosen device and in a chosen precision, in batches that fit in memory.

Images are sent to the device as bytes and converted to floats there, so only a quarter as much data is transferred as
with float32. On a GPU there can be a queue in front of each tower (`double_buffer`, `cuda_lane`). A batch is then sent
while the previous one is computed, so a caller that starts the next batch before reading the last result keeps the GPU
busy. The queue has not run on a GPU yet, so it must be requested.

All batches have the same number of items, the last one filled up with copies, because the kernels that a library
chooses, and with them the last digits, depend on the shape. A vector therefore depends only on its image or caption, as
long as the device, the number of threads and `batch_size` are the same and memory does not run out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import DeviceLostError
from ..preprocess import Pixels, Preprocess
from ..similarity import Embeddings
from .cuda_lane import CudaLane, Filled
from .device import Placement
from .double_buffer import DoubleBuffer
from .fitting import Fit, in_fitting_parts, is_device_lost, is_out_of_memory
from .forks import adapt_to_fork
from .tokens import Ids, Tokens

T = TypeVar("T")
Batches = Callable[[Sequence[T]], Iterable[Sequence[NDArray[Any]]]]  # items -> the arrays of each batch
Queue = DoubleBuffer[Filled, Embeddings]
QUEUE_VARIABLE = "TEXT_IMAGE_SIMILARITY_GPU_QUEUE"  # environment variable; "1" turns the queue on
_WIDTH = 8  # captions are padded to a multiple of this many tokens
# With a queue, captions are padded to one of these widths or to the context length: few shapes, because each needs
# memory and a graph.
_GPU_WIDTHS = (16, 32)


class Tower(nn.Module):
    """One of a model's two towers.

    Args:
        model: The whole model.
        encode: Function from the model and values to features (n, embed_dim).
    """

    def __init__(self, model: nn.Module, encode: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.model = model
        self.encode = encode

    def forward(self, values: Tensor) -> Tensor:
        return self.encode(self.model, values)


class ImageTower(nn.Module):
    """An image tower that accepts images as bytes and normalises them, always in float32.

    Args:
        tower: Function from normalised pixels (n, 3, h, w) to features (n, embed_dim).
        preprocess: The preprocessing, with the mean and standard deviation.
        placement: Device and precision of the tower.
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
        # Converted to floats first, because TensorRT supports bytes only as an input.
        values = pixels.float().permute(0, 3, 1, 2) * self.scale - self.shift  # (n, h, w, 3) -> (n, 3, h, w)
        features: Tensor = self.tower(values.to(self.dtype))
        return features


class BackendMemory:
    """The part of a backend's state that changes while the backend runs.

    Attributes:
        `pictures`, `captions`: Number of images and of captions that fit in memory.
        lost: The error message with which the device failed; None if it has not failed.
        clock: Function that returns a context manager, which is entered while a tower is called, for measurements.
        queues: The queues in front of the towers for images (0) and captions (1); None if memory was too small.
    """

    def __init__(self) -> None:
        self.pictures, self.captions = Fit(), Fit()
        self.lost: str | None = None
        self.clock: Callable[[], AbstractContextManager[object]] = nullcontext
        self.queues: dict[int, Queue | None] = {}
        self._lock = Lock()
        self._wide: tuple[ImageTower, nn.Module] | None = None

    def queue(self, of: int, lane: Callable[[], CudaLane]) -> Queue | None:
        """Return the queue in front of a tower, creating it on first use."""
        with self._lock:
            if of not in self.queues:
                self.queues[of] = DoubleBuffer(lane())
            return self.queues[of]

    def wide(self, image: ImageTower, text: nn.Module) -> tuple[ImageTower, nn.Module]:
        """Return the towers in float32, copying them on first use."""
        with self._lock:
            if self._wide is None:
                copied_image, copied_text = deepcopy((image, text))  # together, because the towers may share a model
                copied_image.dtype = torch.float32
                self._wide = copied_image.float(), copied_text.float()
            return self._wide


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """A backend that runs two towers on a device with torch.

    If memory runs out, the batch is halved and finished parts are kept. Rows that overflow in float16 are computed
    again in float32. If the device itself fails, this call and every later one raise `DeviceLostError`.

    Args:
        placement: Device and precision of the towers.
        image_tower: Function from bytes (n, h, w, 3) on the device to features (n, embed_dim).
        text_tower: Function from padded token ids (n, t) on the device to features (n, embed_dim).
        tokens: `Tokens` that pad the ids.
        `pictures`, `captions`: Number of images and of captions per call, or None for all at once.
        learned: The part of the backend's state that changes while the backend runs.
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
        return False  # last digits may depend on the position in a batch, and on whether memory ran out

    @property
    def precision(self) -> str:
        return "fp16" if self.placement.dtype == torch.float16 else "fp32"

    @property
    def weight_bytes(self) -> int:
        towers = nn.ModuleList([self.image_tower, self.text_tower])  # the towers may share a model
        return sum(part.nbytes for part in (*towers.parameters(), *towers.buffers()))

    @property
    def overlaps(self) -> bool:
        """Whether it helps to start a batch before the result of the previous one is read."""
        return self.learned.queues.get(0, self._may_queue) not in (None, False)

    @property
    def _may_queue(self) -> bool:
        asked = os.environ.get(QUEUE_VARIABLE) == "1" and self.placement.device.type == "cuda"
        return asked and None not in (self.pictures, self.captions)

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        return self.begin_image(pixels)()

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        return self.begin_text(rows)()

    def begin_image(self, pixels: Sequence[Pixels]) -> Callable[[], Embeddings]:
        """Start the work of `image`, and return a function that waits for the result.

        Without a queue, that function does the work.
        """

        def batches(items: Sequence[Pixels]) -> Iterator[Sequence[Pixels]]:
            step = self.pictures or len(items)
            return (items[start : start + step] for start in range(0, len(items), step))

        return self._begin(batches, pixels, of=0)

    def begin_text(self, rows: Sequence[Ids]) -> Callable[[], Embeddings]:
        """Start the work of `text`, as `begin_image` does."""
        longest = self.tokens.context_length
        widths = (*_GPU_WIDTHS, longest) if longest and self._may_queue else ()

        def batches(items: Sequence[Ids]) -> Iterator[Sequence[NDArray[Any]]]:
            return map(list, self.tokens.batches(items, most=self.captions or len(items), step=_WIDTH, widths=widths))

        return self._begin(batches, rows, of=1)

    def _queue(self, of: int) -> Queue | None:
        """Return the queue in front of a tower; None if the device has none, or batches may have any size."""
        if not self._may_queue:
            return self.learned.queues.get(of)
        device, tower = self.placement.device, (self.image_tower, self.text_tower)[of]
        return self.learned.queue(of, lambda: CudaLane(tower, device, lambda: self.learned.clock()))

    @torch.inference_mode()
    def _begin(self, batches: Batches[T], items: Sequence[T], *, of: int) -> Callable[[], Embeddings]:
        adapt_to_fork(self.placement.device)
        queue = None if self.learned.lost else self._queue(of)
        if queue is None:
            return partial(self._run, batches, items, of=of)
        count = (self.pictures, self.captions)[of] or 0
        tickets = [queue.submit(Filled(batch, max(count, len(batch)))) for batch in batches(items)]
        return partial(self._run, batches, items, of=of, begun=lambda: [queue.result(ticket) for ticket in tickets])

    def _sent(self, batch: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(batch)
        if self.placement.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.placement.device, non_blocking=True)

    @torch.inference_mode()
    def _run(
        self,
        batches: Batches[T],
        items: Sequence[T],
        *,
        of: int,
        begun: Callable[[], list[Embeddings]] | None = None,
    ) -> Embeddings:
        """Encode items with the tower for images (`of` 0) or captions (1), or wait for work already started."""
        adapt_to_fork(self.placement.device)
        if self.learned.lost is not None:
            raise self._lost(self.learned.lost)
        towers = self.image_tower, self.text_tower
        fit = (self.learned.pictures, self.learned.captions)[of]
        try:
            features = None if begun is None else self._ended(begun, of)
            if features is None:
                features = self._features(towers, batches(items), fit, of)
            if self.placement.dtype == torch.float16:
                self._recompute_overflowed(features, batches, items, of)
        except RuntimeError as exc:
            if not is_device_lost(exc):
                raise
            self.learned.lost = str(exc).partition("\n")[0]
            raise self._lost(self.learned.lost) from exc
        return features

    def _ended(self, begun: Callable[[], list[Embeddings]], of: int) -> Embeddings | None:
        """Wait for work already started; if memory is too small for a queue, give the queue up and return None."""
        try:
            return np.concatenate(begun())
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
        self.learned.queues[of] = None
        torch.cuda.empty_cache()
        return None

    def _recompute_overflowed(self, features: Embeddings, batches: Batches[T], items: Sequence[T], of: int) -> None:
        """Recompute in float32 the rows that are not finite; if memory runs out, they stay unchanged."""
        spoilt = np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist()
        if not spoilt:
            return
        try:
            wide = self.learned.wide(self.image_tower, self.text_tower)
            features[spoilt] = self._features(wide, batches([items[i] for i in spoilt]), Fit(), of)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise

    def _features(
        self, towers: tuple[nn.Module, nn.Module], batches: Iterable[Sequence[NDArray[Any]]], fit: Fit, of: int
    ) -> Embeddings:
        def encode(part: NDArray[Any]) -> Tensor:
            sent = self._sent(part)
            with self.learned.clock():
                features: Tensor = towers[of](sent)
            return features

        count = (self.pictures, self.captions)[of]
        found = [
            torch.cat(in_fitting_parts(encode, _filled(np.stack(batch), count or 0), fit))[: len(batch)]
            for batch in batches
        ]
        features: Embeddings = torch.cat(found).float().cpu().numpy()
        return features

    def _lost(self, said: str) -> DeviceLostError:
        return DeviceLostError(
            f"the device {self.device} has failed ({said}) and this process can no longer use it; start again in a new"
            " process, or with device='cpu'"
        )


def _filled(batch: NDArray[Any], count: int) -> NDArray[Any]:
    """Repeat a batch's last item until the batch has `count` items."""
    lacking = count - len(batch)
    return batch if lacking <= 0 else np.concatenate([batch, batch[-1:].repeat(lacking, axis=0)])
