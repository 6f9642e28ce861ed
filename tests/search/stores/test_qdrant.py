"""The store in Qdrant: the engine's graph, where a server is, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from qdrant_client import QdrantClient

from tests.support.edge import EdgeClient
from tests.support.stores import ALL_FIELDS, WIDTH, fill_with_clusters, recalls
from text_image_similarity.errors import ConfigError, DatabaseError
from text_image_similarity.search.stores.qdrant import QdrantStore, connect


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
    with pytest.raises(DatabaseError, match=r"shop-1.*cannot be made.*check that the server is running"):
        QdrantStore(connect("qdrant://127.0.0.1:1/shop"), "shop-1", ALL_FIELDS, WIDTH)
