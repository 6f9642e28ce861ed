"""The service's API: answers, refusals, and the same numbers as everywhere else."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import make_png
from tests.services import MINI, app_of, base64_pair, mini_settings, serving
from text_image_similarity import Record, score_pairs


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    with serving(app_of(mini_settings())) as client:
        yield client


def test_pairs_get_their_scores_and_their_errors(service: httpx.Client) -> None:
    red, blue = make_png("red"), make_png("blue")
    pairs = [
        base64_pair(red, "a red square", id="r"),
        {"image_url": "/etc/passwd", "caption": "a file", "id": 7},
        base64_pair(blue, " "),
        base64_pair(b"GIF89a", "half a picture"),
    ]
    answer = service.post("/v1/similarity", json={"pairs": pairs})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["model"], found["score"]) == ("mini", "cosine")
    assert [result["id"] for result in found["results"]] == ["r", 7, None, None]
    (expected,) = score_pairs([Record(f"data:;base64,{pairs[0]['image_base64']}", "a red square")], MINI)
    assert found["results"][0]["similarity"] == expected.similarity
    assert [result["error"] and result["error"]["code"] for result in found["results"]] == [
        None,
        "unsupported_scheme",
        "empty_caption",
        "truncated",
    ]
