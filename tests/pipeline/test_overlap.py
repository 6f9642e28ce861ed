"""With a device that computes beside this process, a batch begins before the last one is read, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.support.images import inline
from tests.support.records import COLOURS, CONFIG
from text_image_similarity import DeviceLostError, Record, Scorer, score_pairs
from text_image_similarity.encoders import OverlappingEncoder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline.encoding import one_late
from text_image_similarity.pipeline.stats import RunStats


@dataclass(frozen=True)
class Beside(ColourEncoder):
    """A ColourEncoder that notes when images begin and when their vectors are asked for."""

    batch_invariant: bool = False
    events: list[str] = field(default_factory=list)
    lost_at: int = -1
    overlaps: bool = True

    def begin_pixels(self, pixels: Sequence[Any]) -> Callable[[], np.ndarray]:
        number = sum("begin" in event for event in self.events)
        self.events.append(f"begin {len(pixels)}")
        return lambda: self._ended(number, pixels)

    def begin_tokens(self, rows: Sequence[str]) -> Callable[[], np.ndarray]:
        if any("refused" in row for row in rows):
            raise ValueError("refused")
        return lambda: self.encode_tokens(rows)

    def encode_tokens(self, rows: Sequence[str]) -> np.ndarray:
        if any("refused" in row for row in rows):
            raise ValueError("refused")
        return super().encode_tokens(rows)

    def _ended(self, number: int, pixels: Sequence[Any]) -> np.ndarray:
        self.events.append(f"end {number}")
        if number == self.lost_at:
            raise DeviceLostError("the device has failed")
        return self.encode_pixels(pixels)


def pairs(count: int) -> list[Record]:
    """Return rows of different images with different captions."""
    return [Record(inline((number + 1, 40, 90)), f"{COLOURS[number % 7]} {number}") for number in range(count)]


def test_a_batch_begins_before_the_last_one_is_read() -> None:
    encoder, records = Beside(), pairs(14)
    assert isinstance(encoder, OverlappingEncoder)
    stats, plain = RunStats(), RunStats()
    found = list(score_pairs(records, CONFIG, encoder=encoder, stats=stats))
    assert found == list(score_pairs(records, CONFIG, encoder=ColourEncoder(), stats=plain))
    assert encoder.events == ["begin 4", "begin 4", "end 0", "begin 4", "end 1", "begin 2", "end 2", "end 3"]
    assert (stats.rows, stats.failures) == (plain.rows, plain.failures)
    vectors = list(Scorer(CONFIG, encoder=encoder).embed_images([record.url for record in records]))
    expected = Scorer(CONFIG, encoder=ColourEncoder()).embed_images([record.url for record in records])
    for one, other in zip(vectors, expected, strict=True):
        assert isinstance(one, np.ndarray)
        np.testing.assert_array_equal(one, other)


def test_an_image_of_two_batches_is_encoded_once() -> None:
    encoder = Beside()
    images = [inline(colour) for colour in ("red", "green", "blue", "red")]
    records = [Record(images[number % 4], f"red {number}") for number in range(20)]
    found = list(score_pairs(records, CONFIG, encoder=encoder))
    assert found == list(score_pairs(records, CONFIG, encoder=ColourEncoder()))
    assert [event for event in encoder.events if "begin" in event and event != "begin 0"] == ["begin 3"]


def test_faulty_captions_fail_alone() -> None:
    records = pairs(9)
    records[5] = Record(records[5].url, "refused")
    found = list(score_pairs(records, CONFIG, encoder=Beside()))
    assert [result.error for result in found if result.error] == ["encoder_error: ValueError: refused"]
    assert found[5].error is not None


def test_what_was_read_comes_before_the_sources_exception() -> None:
    def failing() -> Iterator[Record]:
        yield from pairs(6)
        raise OSError("the disk is gone")

    found = []

    def score() -> None:
        for result in score_pairs(failing(), CONFIG, encoder=Beside()):
            found.append(result)

    with pytest.raises(OSError, match="the disk is gone"):
        score()
    assert len(found) == 6


def test_a_lost_device_ends_the_run_after_what_is_finished() -> None:
    encoder, found = Beside(lost_at=2), []

    def score() -> None:
        for result in score_pairs(pairs(20), CONFIG, encoder=encoder):
            found.append(result)

    with pytest.raises(DeviceLostError):
        score()
    assert len(found) == 8
    assert all(result.error is None for result in found)


def test_nothing_begins_before_the_last_batch_of_a_part_is_out() -> None:
    taken: list[int] = []

    def batches() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    seen = [(number, len(taken)) for number in one_late(batches(), lambda number: number == 2, late=True)]
    assert seen == [(0, 2), (1, 3), (2, 3), (3, 5), (4, 6), (5, 6)]
    taken.clear()
    assert [(n, len(taken)) for n in one_late(batches(), lambda _: False, late=False)] == [(n, n + 1) for n in range(6)]
