"""Values that are remembered: the most recently used ones, and no more than that."""

from __future__ import annotations

import numpy as np
import pytest

from text_image_similarity.embeddings import EmbeddingMemory, PartEmbeddings, Recent
from text_image_similarity.embeddings import memory as memory_module


def test_the_values_that_were_not_used_for_longest_go_first() -> None:
    recent: Recent[str, int] = Recent(2)
    assert recent.get("a") is None
    assert [recent.put("a", 1), recent.put("b", 2), recent.get("a"), recent.put("c", 3)] == [1, 2, 1, 3]
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
    recent.clear()
    assert recent.get("a") is None


def test_many_values_are_stored_and_returned_like_single_ones() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.put_many({"a": 1, "b": 2})
    assert recent.get_many(["x", "a"]) == {"a": 1}
    recent.put_many({"c": 3})
    assert recent.get_many("abc") == {"a": 1, "c": 3}


def test_a_vector_that_is_used_again_does_not_keep_its_batch_in_memory() -> None:
    memory = EmbeddingMemory(2)
    batch = np.eye(3, dtype=np.float32)
    batch.setflags(write=False)
    memory.put(dict(zip((b"a", b"b", b"c"), batch, strict=True)))
    assert memory.get_many([b"a"]) == {}
    for _ in range(2):
        vector = memory.get(b"b")
        assert vector is not None
        assert vector.base is None
        assert not vector.flags.writeable
        assert vector.tolist() == [0, 1, 0]
    memory.put({b"d": batch[0]})  # takes the place of the one that was not used
    assert set(memory.get_many([b"b", b"c", b"d"])) == {b"b", b"d"}


def test_a_part_finds_its_own_vectors_before_and_after_they_are_remembered() -> None:
    memory = EmbeddingMemory(8)
    part = PartEmbeddings(memory)
    part.put({b"a": np.array([1, 0], np.float32)})
    assert list(part.get_many([b"a", b"b"])) == [b"a"]
    assert memory.get(b"a") is None
    part.save()
    assert list(part.get_many([b"a", b"b"])) == [b"a"]
    assert memory.get(b"a") is not None
    part.end_part()
    assert part.get(b"a") is not None


def test_a_very_large_part_is_remembered_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_MOST_UNSAVED", 4 * 8)
    memory = EmbeddingMemory(8)
    part = PartEmbeddings(memory)
    part.put({b"a": np.array([1, 0], np.float32), b"b": np.array([0, 1], np.float32)})
    part.put({b"c": np.array([1, 0], np.float32), b"d": np.array([0, 1], np.float32)})
    assert memory.get(b"a") is None
    part.put({b"e": np.array([1, 0], np.float32)})
    assert set(memory.get_many([b"a", b"b", b"c", b"d", b"e"])) == {b"a", b"b", b"c", b"d", b"e"}
    assert set(part.get_many([b"a", b"e"])) == {b"a", b"e"}
