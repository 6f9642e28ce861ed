"""A new model of another width, while searches go on: nobody is refused, and no answer is of two models."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.clock import HANG_S, wait_for
from tests.support.images import inline
from tests.support.paths import ROOT
from tests.support.services import MINI, process, serving
from text_image_similarity import Catalog, Config, Product, Query, load_encoder, open_catalog
from text_image_similarity.service import Settings, create_app
from text_image_similarity.service.keys import ApiKey

BOSS = {"X-API-Key": "boss"}
TEXTS = [f"a {word} thing" for word in ("red", "green", "dark", "pale")]
Shown = list[tuple[str, float]]


def make_catalog(place: Path, model: Path) -> None:
    with open_catalog(place, fields=[], model=str(model), config=Config(device="cpu")) as catalog:
        catalog.add(Product(f"p{shade}", images=[inline((shade, 255 - shade, 9 * shade % 256))]) for shade in range(60))


def expected(catalog: Catalog) -> dict[str, Shown]:
    """Return what the generation that is live answers to each text."""
    return {text: [(m.product.id, m.similarity or 0.0) for m in catalog.match(Query(text, top_k=5))] for text in TEXTS}


@contextmanager
def asking(url: str, answers: list[tuple[str, Any]]) -> Iterator[None]:
    """Keep two clients busy while the block runs."""
    ended = threading.Event()

    def ask(texts: list[str]) -> None:
        with httpx.Client(base_url=url, timeout=HANG_S, trust_env=False, headers={"X-API-Key": "reader"}) as client:
            for number, text in enumerate(cycle(texts)):
                if ended.is_set():
                    return
                where = f'_id != "none {number}"'  # so that no answer is known already
                found = client.post("/match-text", json={"text": text, "top_k": 5, "where": where})
                answers.append((text, found.json() if found.status_code == 200 else found.text))

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(ask, texts) for texts in (TEXTS, TEXTS[::-1])]
        try:
            yield
        finally:
            ended.set()
        for client in clients:
            client.result()


def run(action: str, place: Path) -> None:
    """Run an action of `catalog` in a process of its own."""
    subprocess.run([sys.executable, "-m", "text_image_similarity", "catalog", action, str(place)], cwd=ROOT, check=True)


def generation_of(answers: list[tuple[str, Any]]) -> int | None:
    return answers[-1][1]["generation"] if answers else None


@pytest.mark.extended
def test_no_query_fails_and_no_answer_is_of_two_models(tiny_clip: Path, tiny_siglip: Path, tmp_path: Path) -> None:
    place = tmp_path / "shop.catalog"
    make_catalog(place, tiny_clip)
    load_encoder(Config(model=tiny_siglip))  # exported now, and not beside clients that never pause
    model = Config(model=str(tiny_clip), device="cpu", retries=0, limits=MINI.limits)
    keys = (ApiKey("reader"), ApiKey("boss", role="admin"))
    settings = Settings(models={"clip": model}, catalogs={"shop": str(place)}, api_keys=keys, drain_delay_s=0.0)
    answers: list[tuple[str, Any]] = []
    right: dict[int, dict[str, Shown]] = {}
    with serving(create_app(settings)) as client, open_catalog(place, config=model) as other:
        client.headers.update(BOSS)
        url = "/v1/catalogs/shop"
        right[1] = expected(other)
        with asking(str(client.base_url), answers):
            assert client.post(f"{url}:reindex", json={"model": str(tiny_siglip)}).status_code == 202
            wait_for(lambda: client.get(url).json()["reindex"]["state"] != "running", HANG_S)
            assert [each["state"] for each in client.get(url).json()["generations"]] == ["live", "ready"]
            assert generation_of(answers) == 1
            for step, number in ((":switch", 2), (":rollback", 1)):
                found = client.post(f"{url}{step}").json()
                assert found["generation"] == number
                since = len(answers)
                wait_for(lambda since=since: len(answers) > since + 8)  # type: ignore[misc]
                assert generation_of(answers) == number
            # Another process switches, and then removes the model that was answering.
            run("rollback", place)
            right[2] = expected(other)
            wait_for(lambda: generation_of(answers) == 2)
            run("drop", place)
            since = len(answers)
            wait_for(lambda: len(answers) > since + 8)
    assert [text for text, found in answers if isinstance(found, str)] == []
    assert {found["generation"] for _, found in answers} == {1, 2}
    for text, found in answers:
        shown = [(match["product"]["id"], match["similarity"]) for match in found["matches"]]
        assert shown == right[found["generation"]][text]


@pytest.mark.extended
def test_a_reindex_goes_on_after_the_service_was_killed(tiny_clip: Path, tiny_siglip: Path, tmp_path: Path) -> None:
    place, keys = tmp_path / "shop.catalog", tmp_path / "keys"
    make_catalog(place, tiny_clip)
    keys.write_text('{"key": "boss", "role": "admin"}\n')
    arguments = [
        "--model",
        f"clip={tiny_clip}",
        "--device",
        "cpu",
        "--catalog",
        str(place),
        "--api-key-file",
        str(keys),
    ]
    url = "/v1/catalogs/shop"
    for last in (False, True):
        with process(*arguments, "--drain-delay", "0", environment={"TEXT_IMAGE_SIMILARITY_API_KEYS": ""}) as service:
            client = httpx.Client(base_url=service.url, timeout=HANG_S, trust_env=False, headers=BOSS)
            with client:
                wait_for(lambda client=client: client.get("/health").status_code == 200, HANG_S)  # type: ignore[misc]
                assert client.post(f"{url}:reindex", json={"model": str(tiny_siglip)}).status_code == 202
                if not last:
                    service.popen.kill()
                    service.popen.wait()
                    continue
                found = wait_for(
                    lambda client=client: (state := client.get(url).json())["reindex"]["state"]  # type: ignore[misc]
                    != "running"
                    and state,
                    HANG_S,
                )
                assert (found["reindex"]["state"], found["generations"][1]["state"]) == ("done", "ready"), found
                assert client.post(f"{url}:switch").json()["generation"] == 2
                match = client.post("/match-text", json={"text": "red", "top_k": 1}).json()
                assert (match["generation"], match["total"]) == (2, 60)
            assert service.end() == 0


pytestmark = pytest.mark.slow
