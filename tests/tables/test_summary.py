"""What a run's parts come to."""

from __future__ import annotations

from text_image_similarity.tables.summary import outcome
from text_image_similarity.workspace import Part


def test_parts_are_summed_and_figures_rounded() -> None:
    first = Part(0, 3, "x", 2, {"timeout": 1}, {"total": 0.50004, "fetch": 1.00006})
    second = Part(1, 2, "y", 1, {"corrupt": 1}, {"total": 1.00004, "fetch": 0.5, "encode": 0.25})
    found = outcome([first, second])
    assert (found["rows"], found["scored"]) == (5, 3)
    assert list(found["failures"].items()) == [("corrupt", 1), ("timeout", 1)]
    assert found["seconds"] == {"encode": 0.25, "fetch": 1.5, "total": 1.5}
    assert found["pairs_per_second"] == 3.33
    assert found["throughput"] == [(0.0, 0), (0.5, 3), (1.5, 5)]


def test_no_parts_come_to_nothing() -> None:
    assert outcome([])["rows"] == 0
