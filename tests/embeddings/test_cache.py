"""The embedding cache gives back what was put in, to every thread and process, and never stops a run."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from tests.support.clock import HANG_S
from tests.support.embeddings import key, vector
from text_image_similarity import ConfigError
from text_image_similarity.embeddings.cache import EmbeddingCache, content_key, content_keys


def test_keys_stay_what_they_were() -> None:
    """Files and Redis hold embeddings of earlier versions under them."""
    texts = [b"a red dot", b""]
    model = blake2b(b"text model", digest_size=32).digest()
    keys = [blake2b(text, digest_size=20, key=model).digest() for text in texts]
    assert content_keys("model", "text", texts) == keys == [content_key("model", "text", text) for text in texts]


def test_what_is_put_in_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cache = EmbeddingCache(path, 7)
    for number in range(1000):
        cache.put({key(number): vector(number)})
    assert cache.get(key(1001)) is None
    np.testing.assert_array_equal(cache.get(key(999)), vector(999))
    cache.close()
    again = EmbeddingCache(path, 7)
    for number in range(1000):
        np.testing.assert_array_equal(again.get(key(number)), vector(number))
    again.close()


def test_a_key_stands_for_model_kind_and_content() -> None:
    keys = {
        content_key(model, kind, content) for model in "ab" for kind in ("image", "text") for content in (b"1", b"")
    }
    assert len(keys) == 8
    assert all(len(k) == 20 for k in keys)


WRITER = """
import sys
import threading
from tests.support.clock import HANG_S
from tests.support.embeddings import key, vector
from text_image_similarity.embeddings.cache import EmbeddingCache
cache = EmbeddingCache(sys.argv[1], 7)
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 2000):
    cache.put({key(number): vector(number)})
cache.close()
"""


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    # Overlapping ranges, so that some embeddings are written by two.
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(start)], stderr=subprocess.PIPE)
        for start in (0, 1000, 2000)
    ]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [(b"", 0)] * 3
    cache = EmbeddingCache(path, 7)
    for number in range(4000):
        np.testing.assert_array_equal(cache.get(key(number)), vector(number))
    cache.close()


def test_a_cache_that_breaks_is_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache.sqlite"
    cache = EmbeddingCache(path, 7)
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE embeddings")
    other.close()
    with caplog.at_level(logging.WARNING, "text_image_similarity"):
        assert cache.get(key(1)) is None
        for number in range(600):
            cache.put({key(number): vector(number)})
        cache.close()
    assert len(caplog.records) == 1
    assert "continues without it" in caplog.text


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        EmbeddingCache(tmp_path, 7)
    with pytest.raises(ConfigError, match="cannot be used"):
        EmbeddingCache(tmp_path / "no" / "such" / "folder.sqlite", 7)


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE embeddings (id INTEGER)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program's database"):
        EmbeddingCache(path, 7)
    assert path.read_bytes() == before


def test_a_vector_that_cannot_be_one_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cache = EmbeddingCache(path, 7)
    cache.put({key(1): vector(1)})
    cache.put({key(2): np.full(7, np.nan, np.float32), key(4): 1.01 * vector(4), key(5): 0 * vector(5)})
    cache.close()
    with sqlite3.connect(path) as file:
        file.execute("INSERT INTO embeddings VALUES (?, ?)", (key(3), b"12345"))
    file.close()
    narrow, cache = EmbeddingCache(path, 3), EmbeddingCache(path, 7)
    assert [narrow.get(key(n)) for n in range(1, 6)] == [None] * 5
    assert [cache.get(key(n)) is None for n in range(1, 6)] == [False, True, True, True, True]
    narrow.close()
    cache.close()


def test_a_cache_that_is_being_made_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    maker = sqlite3.connect(path, isolation_level=None)
    maker.execute("BEGIN IMMEDIATE")
    opened: list[EmbeddingCache] = []
    waiting = threading.Thread(target=lambda: opened.append(EmbeddingCache(path, 7)))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    maker.execute("ROLLBACK")
    maker.close()
    waiting.join(HANG_S)
    opened[0].put({key(1): vector(1)})
    opened[0].close()


@pytest.mark.parametrize("value", ["xxxxxxxxxxxx", 7, 0.5])
def test_a_value_of_another_type_counts_as_missing(value: object, tmp_path: Path) -> None:
    EmbeddingCache(tmp_path / "cache.sqlite", 3).close()
    with sqlite3.connect(tmp_path / "cache.sqlite") as other:
        other.execute("INSERT INTO embeddings VALUES (?, ?)", (key(1), value))
    other.close()
    cache = EmbeddingCache(tmp_path / "cache.sqlite", 3)
    assert cache.get_many([key(1)]) == {}
    cache.close()


ROWS = "WITH RECURSIVE c(key, vector) AS (SELECT 1, x'00' UNION ALL SELECT key + 1, vector FROM c) SELECT * FROM c"
TABLE = "CREATE TABLE embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"


@pytest.mark.parametrize(
    "made",
    [
        [f"CREATE VIEW embeddings AS {ROWS}"],
        ["CREATE TABLE embeddings (key BLOB PRIMARY KEY, vector BLOB AS (zeroblob(1 << 30)))"],
        [TABLE, f"CREATE VIEW more AS {ROWS}"],
        [TABLE, "CREATE TRIGGER t AFTER INSERT ON embeddings BEGIN SELECT zeroblob(1 << 30); END"],
        ["CREATE TABLE other (key BLOB PRIMARY KEY)"],
    ],
)
def test_a_cache_of_other_tables_is_refused(made: list[str], tmp_path: Path) -> None:
    """Someone else's view could have rows without end, and the first look-up would read them all."""
    with sqlite3.connect(tmp_path / "cache.sqlite") as other:
        other.execute(f"PRAGMA application_id = {0x74697363}")
        for each in made:
            other.execute(each)
    other.close()
    with pytest.raises(ConfigError, match="it has other tables than an embedding cache"):
        EmbeddingCache(tmp_path / "cache.sqlite", 3)
