"""The encoder under stress: too little memory, numbers that overflow, a device that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.images import inline
from tests.support.records import COLOURS, CONFIG, codes
from text_image_similarity import DeviceLostError, ModelError, Record, score_pairs
from text_image_similarity.encoders.device import Placement
from text_image_similarity.encoders.fitting import Fit, in_fitting_parts, is_device_lost, is_out_of_memory
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.encoders.tokens import Tokens
from text_image_similarity.encoders.torch_backend import ImageTower, TorchBackend
from text_image_similarity.preprocess import Preprocess

PREPROCESS = Preprocess(size=4, crop=None, mean=(0.0,) * 3, std=(1.0,) * 3)
CPU_FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ...")


@dataclass
class Device:
    """A tower that notes its batches and holds so many items."""

    holds: int = 1000
    error: Callable[[], Exception] = field(default=lambda: torch.OutOfMemoryError("CUDA out of memory."))
    tried: list[int] = field(default_factory=list)

    def __call__(self, items: Sequence[float]) -> Tensor:
        self.tried.append(len(items))
        if len(items) > self.holds:
            raise self.error()
        return torch.tensor(items)[:, None]


def encoded(device: Device, count: int, fit: Fit) -> list[float]:
    return torch.cat(in_fitting_parts(device, [float(i) for i in range(count)], fit)).flatten().tolist()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), MemoryError(), CPU_FULL, RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]
)
def test_a_batch_that_does_not_fit_is_halved_and_what_is_finished_stays(error: Exception) -> None:
    device, fit = Device(holds=3, error=lambda: error), Fit()
    assert encoded(device, 7, fit) == [0, 1, 2, 3, 4, 5, 6]
    assert device.tried == [7, 3, 3, 1]
    device.tried.clear()
    assert encoded(device, 6, fit) == [0, 1, 2, 3, 4, 5]
    assert device.tried == [3, 3]  # it remembers
    device.holds, device.tried = 0, []
    with pytest.raises(type(error)):
        encoded(device, 4, fit)
    assert device.tried == [3, 1]


def test_the_batch_grows_back_and_less_eagerly_each_time() -> None:
    device, fit = Device(holds=4), Fit()

    def batches_until_more() -> int:
        for number in range(1000):
            device.tried.clear()
            encoded(device, 8, fit)
            if max(device.tried) > 4:
                return number
        return 1000

    encoded(device, 8, fit)
    first = batches_until_more()
    assert 0 < first < 20
    assert batches_until_more() > first
    device.holds = 8
    for _ in range(200):
        device.tried.clear()
        encoded(device, 8, fit)
    assert device.tried == [8]


def test_another_error_is_not_taken_for_too_little_memory() -> None:
    device = Device(holds=2, error=lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        encoded(device, 4, Fit())
    assert device.tried == [4]


class Overflowing(nn.Module):
    """Squares are beyond float16 for bright pictures; their roots are not. Half of a picture that is `broken` is none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 400.0))
        self.seen: list[tuple[int, torch.dtype]] = []

    def forward(self, values: Tensor) -> Tensor:
        self.seen.append((len(values), values.dtype))
        values = values.flatten(1).mean(1, keepdim=True)  # (n, 1), 0..1
        values = torch.where(values == 0, torch.nan, values)
        return torch.cat([(values * self.weight).square().sqrt(), values], 1)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.error: Exception | None = None
        self.calls = 0

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return ids[:, :1].to(self.weight.dtype) * self.weight


def backend(dtype: torch.dtype) -> tuple[TorchBackend, Overflowing, Words]:
    runtime = Placement(torch.device("cpu"), dtype)
    picture, words = Overflowing().to(dtype), Words().to(dtype)
    tokens = Tokens(lambda texts: [[len(text)] for text in texts], pad=0, context_length=8)
    return TorchBackend(runtime, ImageTower(picture, PREPROCESS, runtime), words, tokens), picture, words


def grey(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def test_what_float16_makes_infinite_is_computed_once_more_in_float32() -> None:
    half, tower, _ = backend(torch.float16)
    pixels = [grey(100), grey(250), grey(0), grey(200), grey(255)]
    features = half.image(pixels)
    assert tower.seen == [(5, torch.float16)]  # the copy, not the tower, has done the rest
    assert np.isfinite(features).all(axis=1).tolist() == [True, True, False, True, True]
    expected = backend(torch.float32)[0].image(pixels)
    np.testing.assert_allclose(features, expected, rtol=2e-3)
    assert (expected[[1, 3, 4], 0] ** 2 > np.finfo(np.float16).max).all()  # so float16 alone would not have done
    wide = half.learned.wide(half.image_tower, half.text_tower)
    assert wide[0].tower.seen == [(5, torch.float16), (4, torch.float32)]  # a copy made when the first pass was over
    half.image([grey(255)])
    assert half.learned.wide(half.image_tower, half.text_tower) is wide
    assert tower.weight.dtype == torch.float16


def test_float32_is_not_computed_twice() -> None:
    whole, tower, _ = backend(torch.float32)
    assert not np.isfinite(whole.image([grey(0)])).any()
    assert len(tower.seen) == 1


def test_no_memory_for_the_second_try_leaves_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    half, _, _ = backend(torch.float16)

    def full(*_: object) -> None:
        raise CPU_FULL

    monkeypatch.setattr(half.learned, "wide", full)
    assert np.isfinite(half.image([grey(100), grey(255)])).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."),
        RuntimeError("CUDA error: unspecified launch failure"),
    ],
)
def test_a_lost_device_says_so_and_is_not_asked_again(error: RuntimeError) -> None:
    model, _, words = backend(torch.float32)
    words.error = error
    with pytest.raises(DeviceLostError, match=r"cpu has failed \(CUDA error: [a-z ]+\).*start again") as caught:
        model.text([[1], [2]])
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, ModelError)
    words.error = None
    for ask in (partial(model.text, [[1]]), partial(model.image, [grey(1)])):
        with pytest.raises(DeviceLostError):
            ask()
    assert words.calls == 1


def test_too_little_memory_is_no_lost_device() -> None:
    for said in ("CUDA error: out of memory", "CUDA out of memory. Tried to allocate 2.00 GiB"):
        assert is_out_of_memory(torch.AcceleratorError(said))
        assert not is_device_lost(torch.AcceleratorError(said))
    assert not is_device_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@dataclass(frozen=True)
class Failing(ColourEncoder):
    """A ColourEncoder whose device fails at a certain batch of pictures."""

    calls: list[int] = field(default_factory=list)
    fails_at: int = 2

    def encode_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        self.calls.append(len(pixels))
        if len(self.calls) > self.fails_at:
            raise DeviceLostError("the device has failed")
        return super().encode_pixels(pixels)


def endless() -> Iterator[Record]:
    while True:
        for number, colour in enumerate(COLOURS):
            yield Record(inline(colour), f"{colour} {number}")


def test_a_lost_device_ends_the_run_after_what_is_finished() -> None:
    encoder, finished = Failing(fails_at=1), []

    def score() -> None:
        for result in score_pairs(endless(), CONFIG, encoder=encoder):
            finished.append(result)

    with pytest.raises(DeviceLostError):
        score()
    assert len(finished) >= CONFIG.batch_size
    assert codes(finished) == [None] * len(finished)  # no row is blamed
    assert encoder.calls == [4, 3]  # and none is tried alone


def test_too_little_memory_for_one_row_costs_that_row() -> None:
    @dataclass(frozen=True)
    class Small(ColourEncoder):
        def encode_tokens(self, texts: Sequence[str]) -> np.ndarray:
            if any("long" in text for text in texts) or len(texts) > 2:
                raise MemoryError
            return super().encode_tokens(texts)

    texts = ["red", "red long", "blue", "green"]
    results = list(score_pairs([Record(inline("red"), text) for text in texts], CONFIG, encoder=Small()))
    assert codes(results) == [None, "encoder_error", None, None]
