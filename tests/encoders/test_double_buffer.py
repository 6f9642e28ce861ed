"""A device is kept busy by a queue in front of it, and gives what it would give without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from text_image_similarity import DeviceLostError, UsageError
from text_image_similarity.encoders import cuda_lane
from text_image_similarity.encoders.cuda_lane import CudaLane, Filled
from text_image_similarity.encoders.device import Placement
from text_image_similarity.encoders.double_buffer import DoubleBuffer
from text_image_similarity.encoders.tokens import Tokens
from text_image_similarity.encoders.torch_backend import ImageTower, TorchBackend
from text_image_similarity.encoders.two_tower import OverlappingBackend
from text_image_similarity.preprocess import Preprocess

PATIENCE_S = 60.0
COUNT = 4  # items of a batch


@dataclass
class Notes:
    """A lane that notes what it is asked for; a batch is its own result."""

    calls: list[str] = field(default_factory=list)
    slots: dict[int, Any] = field(default_factory=dict)

    def begin(self, slot: int, batch: Any) -> None:
        self.calls.append(f"begin {batch} in {slot}")
        assert slot not in self.slots, "its result was not read yet"
        if batch == "refused":
            raise MemoryError(batch)
        self.slots[slot] = batch

    def end(self, slot: int) -> Any:
        batch = self.slots.pop(slot)
        self.calls.append(f"end {batch} in {slot}")
        if batch == "broken":
            raise RuntimeError(batch)
        return batch


def test_a_batch_begins_before_the_last_one_is_read() -> None:
    lane = Notes()
    queue = DoubleBuffer[Any, Any](lane)
    tickets = [queue.submit(name) for name in "abc"]
    assert lane.calls == ["begin a in 0", "begin b in 1", "end a in 0", "begin c in 0"]
    assert queue.result(tickets[2]) == "c"
    assert lane.calls[4:] == ["end b in 1", "end c in 0"]  # in order
    assert [queue.result(ticket) for ticket in tickets] == ["a", "b", "c"]  # as often as somebody asks


def test_an_error_belongs_to_its_batch_alone() -> None:
    queue = DoubleBuffer[Any, Any](Notes())
    names = ["a", "refused", "broken", "refused", "b", "broken", "c", "d"]
    tickets = [queue.submit(name) for name in names]
    for name, ticket in zip(names, tickets, strict=True):
        if name in ("refused", "broken"):
            with pytest.raises(MemoryError if name == "refused" else RuntimeError, match=name):
                queue.result(ticket)
        else:
            assert queue.result(ticket) == name


def test_closing_waits_for_what_is_in_progress() -> None:
    lane = Notes()
    queue = DoubleBuffer[Any, Any](lane)
    tickets = [queue.submit(name) for name in "ab"]
    queue.close()
    assert not lane.slots
    with pytest.raises(UsageError, match="accepts no more batches"):
        queue.submit("c")
    assert [queue.result(ticket) for ticket in tickets] == ["a", "b"]


class Slow:
    """A device with a thread of its own, which computes nothing before it may."""

    def __init__(self, may: Callable[[Any], None]) -> None:
        self._may, self._thread = may, ThreadPoolExecutor(1)
        self._slots: dict[int, Future[Any]] = {}

    def begin(self, slot: int, batch: Any) -> None:
        assert slot not in self._slots
        self._slots[slot] = self._thread.submit(self._compute, batch)

    def end(self, slot: int) -> Any:
        return self._slots.pop(slot).result(PATIENCE_S)

    def _compute(self, batch: Any) -> Any:
        self._may(batch)
        return batch


def test_a_slow_device_keeps_nobody_from_preparing_the_next_batch() -> None:
    prepared = {number: Event() for number in range(10)}

    def until_the_next_is_prepared(number: int) -> None:
        assert prepared[min(number + 1, 9)].wait(PATIENCE_S)

    queue = DoubleBuffer[int, int](Slow(until_the_next_is_prepared))
    found: list[int] = []
    last = None
    for number, event in prepared.items():
        event.set()
        ticket = queue.submit(number)
        found += [] if last is None else [queue.result(last)]  # one batch late
        last = ticket
    assert last is not None
    assert [*found, queue.result(last)] == list(range(10))


def test_threads_share_a_queue() -> None:
    queue = DoubleBuffer[int, int](Slow(lambda batch: None))

    def ask(first: int) -> bool:
        numbers = range(first, first + 200)
        return [queue.result(queue.submit(number)) for number in numbers] == list(numbers)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(0, 4000, 1000)))


class Tower(nn.Module):
    """The mean of each item and the number of items at once, so that a wrong shape shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 400.0))
        self.error: Exception | None = None
        self.latest: tuple[Tensor, Tensor]

    def forward(self, values: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        mean = values.to(self.weight.dtype).flatten(1).mean(1, keepdim=True)
        found = torch.cat([(mean * self.weight).square().sqrt(), torch.full_like(mean, len(values))], 1)
        self.latest = values, found
        return found


class HostLane:
    """A lane on this machine: what `CudaLane` does, on a thread."""

    def __init__(self, tower: nn.Module) -> None:
        self._tower, self._thread = tower, ThreadPoolExecutor(1)
        self._slots: dict[int, tuple[Future[Tensor], int]] = {}

    def begin(self, slot: int, batch: Filled) -> None:
        given = np.stack([*batch.items, *[batch.items[-1]] * (batch.count - len(batch.items))])
        self._slots[slot] = self._thread.submit(self._compute, torch.from_numpy(given)), len(batch.items)

    def end(self, slot: int) -> Any:
        features, count = self._slots.pop(slot)
        return features.result(PATIENCE_S).float().numpy()[:count]

    @torch.inference_mode()
    def _compute(self, given: Tensor) -> Tensor:
        found: Tensor = self._tower(given)
        return found


def backend(dtype: torch.dtype = torch.float32, *, queued: bool = True) -> tuple[TorchBackend, Tower]:
    placement, tower = Placement(torch.device("cpu"), dtype), Tower().to(dtype)
    preprocess = Preprocess(size=4, crop=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    tokens = Tokens(lambda texts: [[len(text)] for text in texts], pad=0, context_length=77)
    made = TorchBackend(placement, ImageTower(tower, preprocess, placement), tower, tokens, COUNT, COUNT)
    if queued:
        made.learned.queues = {of: DoubleBuffer(HostLane((made.image_tower, tower)[of])) for of in (0, 1)}
    return made, tower


def greys(*values: int) -> list[np.ndarray]:
    return [np.full((4, 4, 3), value, np.uint8) for value in values]


def test_a_queue_changes_no_bit() -> None:
    with_one, without = backend()[0], backend(queued=False)[0]
    assert isinstance(with_one, OverlappingBackend)
    assert (with_one.overlaps, without.overlaps) == (True, False)
    batches = [greys(*range(3, 20)), greys(7), greys(100, 101)]
    begun = [with_one.begin_image(batch) for batch in batches]
    for batch, ended in zip(batches, begun, strict=True):
        found = ended()
        np.testing.assert_array_equal(found, without.image(batch))
        np.testing.assert_array_equal(found, with_one.image(batch))
        assert (found[:, 1] == COUNT).all()  # of one shape, whatever is asked
    rows = [[5], [6, 7], [8] * 20]
    np.testing.assert_array_equal(with_one.text(rows), without.text(rows))


def test_what_overflows_is_computed_again_with_a_queue_too() -> None:
    half = backend(torch.float16)[0]
    found = half.begin_image(greys(100, 250))()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, backend()[0].image(greys(100, 250)), rtol=2e-3)


def test_too_little_memory_for_a_queue_leaves_the_way_without() -> None:
    made, _ = backend()

    class Full(HostLane):
        def begin(self, slot: int, batch: Filled) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    made.learned.queues[0] = DoubleBuffer(Full(made.image_tower))
    np.testing.assert_array_equal(made.image(greys(1, 2, 3)), backend()[0].image(greys(1, 2, 3)))
    assert not made.overlaps
    assert made.learned.queues[1] is not None


def test_a_lost_device_fails_all_that_is_in_progress_and_all_that_follows() -> None:
    made, tower = backend()
    tower.error = RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
    begun = [made.begin_image(greys(1)), made.begin_text([[1]])]
    for ended in begun:
        with pytest.raises(DeviceLostError, match=r"illegal memory access was encountered.*start again"):
            ended()
    tower.error = None
    with pytest.raises(DeviceLostError):
        made.image(greys(1))


def test_another_error_is_the_batchs_own() -> None:
    made, tower = backend()
    tower.error = ValueError("no such shape")
    begun = made.begin_image(greys(1))
    with pytest.raises(ValueError, match="no such shape"):
        begun()
    tower.error = None
    assert made.image(greys(1)).shape == (1, 2)


def test_captions_have_few_widths_where_each_costs_memory() -> None:
    tokens = Tokens(lambda texts: [], pad=0, context_length=77)
    rows = [[1] * length for length in (1, 9, 16, 17, 32, 33, 77)]
    widths = [batch.shape for batch in tokens.batches(rows, most=256, step=8, widths=(16, 32, 77))]
    assert widths == [(3, 16), (2, 32), (2, 77)]
    assert {batch.shape[1] for batch in tokens.batches(rows, most=256, step=8)} == {8, 16, 24, 32, 40, 77}
    assert [batch.shape for batch in tokens.filled(64).batches(rows[:2], most=9, step=8, widths=(16, 32))] == [(2, 64)]


class Marker:
    """Stands for a stream and for an event."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.mark.parametrize("captures", [True, False])
def test_the_cuda_lane_takes_its_steps_in_order(captures: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the calls that need a GPU; a captured graph computes when it is replayed."""
    tower = Tower()
    graphs: list[Any] = []

    class Graph:
        given: Tensor
        features: Tensor

        def __init__(self) -> None:
            graphs.append(self)

        def replay(self) -> None:
            self.features.copy_(tower(self.given).float())

    @contextmanager
    def capturing(graph: Any, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        if not captures:
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")
        yield
        graph.given, graph.features = tower.latest

    for name, fake in {"Stream": Marker, "Event": Marker, "current_stream": Marker, "CUDAGraph": Graph}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, nullcontext)
    for name in ("synchronize", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(cuda_lane, "_pinned", lambda shape, kind: torch.zeros(shape, dtype=kind))
    entered: list[int] = []

    def clock() -> nullcontext[None]:
        entered.append(1)
        return nullcontext()

    lane = CudaLane(tower, torch.device("cpu"), clock)
    queue = DoubleBuffer[Filled, Any](lane)
    with torch.inference_mode():
        tickets = [queue.submit(Filled(greys(*values), COUNT)) for values in [(1, 2), (3,), (4, 5, 6, 7), (8,)]]
    found = [queue.result(ticket).tolist() for ticket in tickets]
    assert found == [[[400.0 * value, COUNT] for value in values] for values in [(1, 2), (3,), (4, 5, 6, 7), (8,)]]
    assert (len(graphs), len(entered)) == (2, 4)  # one for each slot
