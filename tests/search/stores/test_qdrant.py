"""The store in Qdrant: the engine's graph, where a server is, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ApiException

from tests.support.edge import EdgeClient
from tests.support.stores import ALL_FIELDS, WIDTH, fill_with_clusters, recalls, unit_vectors
from text_image_similarity.errors import ConfigError, DatabaseError
from text_image_similarity.search.stores.qdrant import QdrantStore, connect
from text_image_similarity.search.time_limit import time_limit


def test_the_graph_finds_nearly_all_under_filters(tmp_path: Path) -> None:
    client = EdgeClient(tmp_path, indexing_threshold=10)
    store = QdrantStore(cast(QdrantClient, client), "shop-1", ALL_FIELDS, WIDTH)
    fill_with_clusters(store)
    client.optimize()
    assert client.indexed("shop-1") > 1000
    for share in (1.0, 0.1, 0.01):
        found = recalls(store, share)
        assert np.mean(found) >= 0.99
        assert min(found) >= 0.8
    store.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("qdrant://db.example/shop", "http://db.example:6333"),
        ("qdrant://db.example:7000/shop", "http://db.example:7000"),
        ("qdrants://db.example/shop", "https://db.example:6333"),
        ("qdrant://[::1]/shop", "http://[::1]:6333"),
    ],
)
def test_where_a_server_is(url: str, address: str) -> None:
    client = connect(url)
    assert client.http.client.host == address
    client.close()
    with pytest.raises(ConfigError, match="has no host"):
        connect("qdrant:///shop")


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_key_is_sent_behind_tls_or_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    for url in (
        "qdrants://db.example/shop",
        "qdrant://localhost/shop",
        "qdrant://127.0.0.2:1/shop",
        "qdrant://[::1]/shop",
    ):
        client = connect(url)
        assert client.http.client._client.headers["api-key"] == "secret"
        client.close()
    for url in ("qdrant://db.example/shop", "qdrant://10.0.0.1/shop", "qdrant://localhost.example/shop"):
        with pytest.raises(ConfigError, match=r"would send QDRANT_API_KEY to .* in plain text; write qdrants://"):
            connect(url)


def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(DatabaseError, match=r"shop-1.*cannot be created.*check that the server is running"):
        QdrantStore(connect("qdrant://127.0.0.1:1/shop"), "shop-1", ALL_FIELDS, WIDTH)


def test_a_server_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    class Slow(EdgeClient):
        def count(self, name: str, where: Any, *, exact: bool, timeout: int | None = None) -> Any:
            waited.append(timeout)
            pause.wait(0.2)
            raise ApiException("timed out")

    waited, pause = list[int | None](), Event()
    store = QdrantStore(cast(QdrantClient, Slow(tmp_path)), "shop-1", ALL_FIELDS, WIDTH)
    with time_limit(0.1), pytest.raises(TimeoutError, match="took too long"):
        store.count(None)
    with time_limit(7.5), pytest.raises(DatabaseError, match="timed out"):
        store.count(None)
    with pytest.raises(DatabaseError, match="timed out"):
        store.count(None)
    assert waited == [1, 8, None]
    with time_limit(-1):
        for read in (lambda: store.values("_id", None), lambda: store.search(unit_vectors(7, 1), None, 3)):
            with pytest.raises(TimeoutError):
                read()
        store.clear()  # a write is not interrupted
    store.close()
