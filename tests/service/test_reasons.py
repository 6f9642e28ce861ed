"""A request that is refused hears the right reason and the way out; a value that is missing costs its own pair alone."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import zlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.processes import tool
from tests.support.services import app_of, base64_pair, mini_settings, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import UsageError
from text_image_similarity.service.http import server

JSON = {"content-type": "application/json"}
GOOD = base64_pair(make_png("red"), "a red square")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(app_of(mini_settings(), ColourEncoder())) as found:
        yield found


def refusal(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


# Bodies that are not JSON


@pytest.mark.parametrize("path", ["/v1/similarity", "/v1/embeddings", "/evaluator/v1/evaluation/batch"])
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", bytes), ("zstd", bytes), ("gzip, br", bytes)],
)
def test_a_compressed_body_is_refused_with_its_header_named(
    client: httpx.Client, path: str, encoding: str, compress: Any
) -> None:
    answer = client.post(path, content=compress(b'{"pairs": []}'), headers={**JSON, "content-encoding": encoding})
    assert refusal(answer, 415) == f"Content-Encoding: {encoding} is not supported; send the body uncompressed"
    assert answer.headers["accept-encoding"] == "identity"


def test_a_compressed_form_is_refused_too(client: httpx.Client) -> None:
    form = {"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}
    assert "Content-Encoding: gzip" in refusal(
        client.post("/v1/similarity/upload", content=gzip.compress(b"--b--"), headers=form), 415
    )


def test_a_compressed_body_without_a_header_is_known_for_one(client: httpx.Client) -> None:
    found = refusal(client.post("/v1/similarity", content=gzip.compress(b"{}"), headers=JSON), 415)
    assert found == "the body is compressed with gzip; send the body uncompressed"


def test_a_body_that_says_it_is_not_compressed_is_taken(client: httpx.Client) -> None:
    content = json.dumps({"pairs": [GOOD]})
    assert (
        client.post("/v1/similarity", content=content, headers={**JSON, "content-encoding": "identity"}).status_code
        == 200
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"[" * 10_000, "it is nested too deeply"),
        (b'{"a": "\xff"}', "it is not valid UTF-8 at byte 7"),
        ('{"pairs": 1}'.encode("utf-16"), "it is not valid UTF-8 at byte 0"),
        (b'{"a": "\\ud800"}', "a lone surrogate"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number in it is too long"),
        (b'{"caption": NaN}', "NaN is not a JSON value; a missing value is null"),
        (b'{"caption": -Infinity}', "-Infinity is not a JSON value"),
        (b"{'a': 1}", "key must be a string"),
    ],
)
def test_what_is_wrong_with_json_is_said_alone(client: httpx.Client, body: bytes, said: str) -> None:
    found = refusal(client.post("/v1/similarity", content=body, headers=JSON), 400)
    assert found.startswith("the body is not valid JSON: ")
    assert said in found
    assert "too deeply" not in found or "too deeply" in said


# Values that are missing, or twice there


@pytest.mark.parametrize(
    ("pair", "code"),
    [
        ({**GOOD, "caption": None}, "empty_caption"),
        ({**GOOD, "image_base64": None}, "invalid_url"),
        ({"image_url": None, "caption": "a"}, "invalid_url"),
        ({"image_url": None, "image_base64": None, "caption": "a"}, None),
    ],
)
def test_null_fails_its_pair_alone(client: httpx.Client, pair: dict[str, Any], code: str | None) -> None:
    answer = client.post("/v1/similarity", json={"pairs": [GOOD, pair, GOOD]})
    if code is None:  # which of the two it is cannot be told
        assert "image_url" in refusal(answer, 422)
        return
    first, middle, last = answer.json()["results"]
    assert (first["error"], last["error"]) == (None, None)
    assert (middle["similarity"], middle["error"]["code"]) == (None, code)


@pytest.mark.parametrize("null", ["image_url", "image_base64"])
def test_the_null_that_clients_write_for_what_they_do_not_send_is_left_out(client: httpx.Client, null: str) -> None:
    image = {"image_base64": GOOD["image_base64"], "image_url": f"data:image/png;base64,{GOOD['image_base64']}"}
    pair = {**image, null: None, "caption": "a red square", "id": None}
    (found,) = client.post("/v1/similarity", json={"pairs": [pair]}).json()["results"]
    assert found["error"] is None


def test_null_fails_its_evaluation_alone(client: httpx.Client) -> None:
    good = {"image_input": GOOD["image_base64"], "text_prompt": "a red square"}
    asked = {"evaluations": [good, {**good, "text_prompt": None}, {**good, "image_input": None}]}
    found = client.post("/evaluator/v1/evaluation/batch", json=asked).json()
    assert (found["total_successful"], found["total_failed"]) == (1, 2)
    assert [result["error"] and result["error"].partition(":")[0] for result in found["results"]] == [
        None,
        "empty_caption",
        "invalid_url",
    ]


def test_a_field_that_comes_twice_is_refused(client: httpx.Client) -> None:
    image: tuple[str, Any] = ("image", ("a.png", make_png("red")))
    caption: tuple[str, Any] = ("caption", (None, "a red square"))
    for twice in (caption, ("score", (None, "unit")), ("model", (None, "mini"))):
        answer = client.post("/v1/similarity/upload", files=[image, caption, twice] + [twice] * (twice is not caption))
        assert (
            refusal(answer, 422)
            == f"the form has 2 fields named {twice[0]}, but only one is allowed; send a request for each pair"
        )


@pytest.mark.parametrize(
    "body",
    [
        '{"pairs": [{"image_url": "data:,", "caption": "a", "caption": "b"}]}',
        '{"pairs": [{"caption": "a", "image_url": "data:,", "image_url": "data:,x"}]}',
        '{"pairs": [], "pairs": []}',
    ],
)
def test_a_member_that_comes_twice_is_refused(client: httpx.Client, body: str) -> None:
    assert "twice" in refusal(client.post("/v1/similarity", content=body, headers=JSON), 422)


def test_what_is_no_object_or_no_file_is_said_in_words_of_http(client: httpx.Client) -> None:
    for body, said in (
        ([GOOD], "/: Input should be an object"),
        ({"pairs": [None]}, "/pairs/0: Input should be an object"),
    ):
        assert refusal(client.post("/v1/similarity", json=body), 422) == said
    text: list[tuple[str, Any]] = [("image", (None, GOOD["image_base64"])), ("caption", (None, "a"))]
    assert refusal(client.post("/v1/similarity/upload", files=text), 422) == "/image: Input should be a file"


# Embeddings


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]], list(range(500)), [[1]] * 65, 7])
def test_token_ids_are_told_the_cure(client: httpx.Client, tokens: Any) -> None:
    found = refusal(client.post("/v1/embeddings", json={"input": tokens}), 422)
    assert found.startswith("/input: token ids")
    assert "send text (LangChain: check_embedding_ctx_length=False)" in found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a", None], "/input: item 1 is null, not text"),
        (["a", 3.5], "/input: item 1 is a number, not text"),
        (["a", ["b"]], "/input: item 1 is a list, not text"),
        ([True], "/input: item 0 is true or false, not text"),
        ({"text": "a"}, "/input: item 0 is an object, not text"),
        (None, "/input: item 0 is null, not text"),
        ([], "/input: the list is empty"),
    ],
)
def test_what_is_not_text_is_named(client: httpx.Client, given: Any, said: str) -> None:
    assert refusal(client.post("/v1/embeddings", json={"input": given}), 422) == said


def test_too_many_items_are_told_the_cure(client: httpx.Client) -> None:
    assert refusal(client.post("/v1/embeddings", json={"input": ["a"] * 65}), 422) == (
        "/input: 65 items in one list; the limit is 64 per request; send several requests (LangChain: chunk_size), "
        "or ask for a higher --max-pairs on the service"
    )


# Images


def test_base64_where_a_url_should_be_is_named(client: httpx.Client) -> None:
    text = b64encode(make_png("red")).decode()
    (found,) = client.post("/v1/similarity", json={"pairs": [{"image_url": text, "caption": "a"}]}).json()["results"]
    assert found["error"]["code"] == "invalid_url"
    assert "base64" in found["error"]["detail"]


# Addresses


@pytest.mark.parametrize(("host", "said"), [("127.0.0.1", "127.0.0.1:%d"), ("::1", "[::1]:%d"), ("[::1]", "[::1]:%d")])
def test_the_log_names_a_url_that_can_be_used(host: str, said: str) -> None:
    with server._bind(host, 0) as listener:
        port = listener.getsockname()[1]
        assert server._authority(*listener.getsockname()[:2]) == said % port
        listener.listen()
        with socket.create_connection((host.strip("[]"), port)):
            pass
        with pytest.raises(UsageError) as caught:
            server._bind(host, port)
        assert str(caught.value).startswith(f"cannot listen on {said % port}: ")
        assert str(caught.value).endswith("; stop the program that listens there, or choose another port with --port")


# The page

_IN_THE_PAGE = """
const { shownValue } = await import(process.argv[1] + "/search_facets.js");
const { table } = await import(process.argv[1] + "/csv.js");
const said = (text) => { try { table(text, 9); } catch (problem) { return problem.message; } };
const values = [true, false, "constructor", "toString", "__proto__", 3].map(shownValue);
console.log(JSON.stringify([values, said("url,caption\\na\\n"), said("url,caption\\na,b,c\\n")]));
"""


def test_what_the_page_says_of_values_and_tables() -> None:
    """Without a browser: a value may have the name of something that every object of JavaScript has."""
    options = ["--no-warnings", "--experimental-detect-module", "--input-type=module", "--eval", _IN_THE_PAGE]
    page = ROOT / "text_image_similarity" / "service" / "page"
    done = subprocess.run(
        [tool("node"), *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    values, one, three = json.loads(done.stdout)
    assert values == ["Yes", "No", "constructor", "toString", "__proto__", "3"]
    assert one.startswith("Row 1 has 1 field, but the header has 2.")
    assert three.startswith("Row 1 has 3 fields, but the header has 2.")
