"""Load a running service with Locust, by hand or in CI: `locust --config benchmarks/locust/PROFILE.conf --host URL`.

The profiles are `light` (three users), `ci` (short; fails if a request fails or the p95 exceeds its limit) and `web-ui`
(Locust's own page). Images are drawn for each request, so that the service has not seen them before.
"""

from __future__ import annotations

import io
import math
import os
import random
import re
from base64 import b64encode
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
SHAPES = ("ellipse", "rectangle")
SIDE = 96


def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--max-p95-ms",
        type=float,
        default=0.0,
        help="fail if the 95th percentile of request times exceeds this; 0 means no limit",
    )
    parser.add_argument("--api-key", default=os.environ.get("TEXT_IMAGE_SIMILARITY_API_KEY", ""), is_secret=True)


def judge(environment: Environment, **_: Any) -> None:
    """Set the exit code: 1 if a request failed, none was made, or requests took too long."""
    assert environment.parsed_options is not None
    total, bound = environment.stats.total, environment.parsed_options.max_p95_ms
    p95 = total.get_response_time_percentile(0.95) if total.num_requests else 0.0
    faults = [
        *(["no request was made"] if not total.num_requests else []),
        *([f"{total.num_failures} of {total.num_requests} requests failed"] if total.num_failures else []),
        *([f"p95 is {p95:.0f} ms, over {bound:g} ms"] if bound and p95 > bound else []),
    ]
    for fault in faults:
        print(f"FAILED: {fault}")
    environment.process_exit_code = 1 if faults else 0


events.init_command_line_parser.add_listener(add_options)
events.quitting.add_listener(judge)


class Client(FastHttpUser):
    """Requests scores, mostly for one image and sometimes for eight, and occasionally embeddings of captions."""

    wait_time = between(0.1, 0.5)

    @task(10)
    def one_pair(self) -> None:
        self._score(1)

    @task(2)
    def eight_pairs(self) -> None:
        self._score(8)

    @task(1)
    def embeddings(self) -> None:
        _, caption = drawn()
        with self._post("/v1/embeddings", {"input": [caption]}, "1 caption") as answer:
            if answer.status_code != 200 or not answer.json()["data"][0]["embedding"]:
                answer.failure(why(answer))

    def _score(self, count: int) -> None:
        pairs = [
            {"image_base64": b64encode(picture).decode(), "caption": caption}
            for picture, caption in (drawn() for _ in range(count))
        ]
        with self._post("/v1/similarity", {"pairs": pairs}, "1 pair" if count == 1 else f"{count} pairs") as answer:
            if answer.status_code != 200:
                answer.failure(why(answer))
                return
            results = answer.json()["results"]
            if len(results) != count or not all(math.isfinite(result["similarity"] or math.nan) for result in results):
                answer.failure(f"not all pairs have a score: {results}")

    def _post(self, path: str, body: dict[str, Any], name: str) -> Any:
        key = self.environment.parsed_options.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.client.post(path, json=body, headers=headers, name=f"{path}, {name}", catch_response=True)


def why(answer: Any) -> str:
    """Return why a response failed, in the same words for the same failure, so that Locust counts them together."""
    found = re.search(r'"code": ?"(\w+)"', answer.text or "")
    return f"{answer.status_code} {found[1] if found else (answer.text or '')[:80]}"


def drawn() -> tuple[bytes, str]:
    """Return a JPEG of a shape on a coloured background, and a caption that says what it shows."""
    back, front = random.sample(COLOURS, 2)
    shape, number = random.choice(SHAPES), random.getrandbits(32)
    image = Image.new("RGB", (SIDE, SIDE), back)
    left, top = random.randrange(SIDE // 2), random.randrange(SIDE // 2)
    getattr(ImageDraw.Draw(image), shape)((left, top, left + SIDE // 3, top + SIDE // 3), fill=front)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=random.randrange(60, 96))
    return out.getvalue(), f"a {front} {shape} on {back}, number {number}"
