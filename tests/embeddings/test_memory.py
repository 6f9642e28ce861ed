"""Values that are remembered: the most recently used ones, and no more than that."""

from __future__ import annotations

from text_image_similarity.embeddings import Recent


def test_the_values_that_were_not_used_for_longest_go_first() -> None:
    recent: Recent[str, int] = Recent(2)
    assert recent.get("a") is None
    assert [recent.put("a", 1), recent.put("b", 2), recent.get("a"), recent.put("c", 3)] == [1, 2, 1, 3]
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
    recent.clear()
    assert recent.get("a") is None
