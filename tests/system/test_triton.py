"""A model repository on NVIDIA's own inference server, which runs on this CPU: its numbers, its batches, its errors."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from tests.support.processes import Running, free_port, running, tool
from text_image_similarity import (
    Config,
    ExportOptions,
    ExportSummary,
    Limits,
    ModelError,
    export_model,
    load_encoder,
    score_images,
    score_pairs,
)
from text_image_similarity.encoders.drawn import drawn_pairs
from text_image_similarity.records import Record

pytestmark = [pytest.mark.server, pytest.mark.extended]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "mini"
    export_model(Config(model="mini"), out, ExportOptions(to="triton", triton_backend="python"))
    return out


@contextmanager
def triton(repository: Path, grpc_port: int | None = None) -> Iterator[Running]:
    port = free_port()
    command = [
        tool("tritonserver"),
        f"--model-repository={repository}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
    ]
    command += ["--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"] if grpc_port else ["--allow-grpc=false"]
    log = repository.parent / f"{port}.log"
    with running([*command, "--allow-metrics=false"], port, log, probe="/v2/health/ready") as found:
        yield found


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[tuple[Running, int]]:
    """The server, and the port where it speaks gRPC."""
    port = free_port()
    with triton(repository, port) as found:
        yield found, port


def infer(
    server: Running,
    pairs: Sequence[tuple[bytes, bytes]],
    wanted: Sequence[str] = (),
    post: Callable[..., httpx.Response] = httpx.post,
) -> dict[str, Any]:
    """Ask `score` about pairs in one request, for all outputs or the wanted ones; return its answer."""
    given = b"".join(
        len(value).to_bytes(4, "little") + value for column in zip(*pairs, strict=True) for value in column
    )
    sizes = [sum(4 + len(value) for value in column) for column in zip(*pairs, strict=True)]
    inputs = [
        {"name": name, "shape": [len(pairs), 1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
        for name, size in zip(("image", "caption"), sizes, strict=True)
    ]
    outputs = {"outputs": [{"name": name} for name in wanted]} if wanted else {}
    head = json.dumps({"inputs": inputs, **outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = post(server.url("/v2/models/score/infer"), content=head + given, headers=headers, timeout=60)
    found: dict[str, Any] = answer.json()
    assert (answer.status_code == 400) == ("error" in found)
    return found


def output(answer: dict[str, Any], name: str) -> list[float]:
    (found,) = (one["data"] for one in answer["outputs"] if one["name"] == name)
    return list(found)


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_many_clients_get_the_numbers_of_the_library_in_common_batches(server: tuple[Running, int]) -> None:
    images, captions = zip(*drawn_pairs(200), strict=True)
    pairs = [(png(image), caption.encode()) for image, caption in zip(images, captions, strict=True)]
    before = executions(server[0])
    with httpx.Client() as client, ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda pair: infer(server[0], [pair], post=client.post), pairs))
    similarities = [output(answer, "similarity")[0] for answer in found]
    expected = [result.similarity for result in score_images(images, captions, Config(model="mini"))]
    assert np.abs(np.subtract(similarities, expected)).max() <= 1e-6
    assert np.isclose(np.dot(output(found[0], "image_embeds"), output(found[0], "text_embeds")), similarities[0])
    for tower, (inferences, batches) in executions(server[0]).items():
        mean = (inferences - before[tower][0]) / (batches - before[tower][1])
        assert mean >= 4, f"{tower}: {mean}"


def executions(server: Running) -> dict[str, tuple[int, int]]:
    """Return how many items each tower has encoded, in how many batches."""
    found = {}
    for tower in ("image", "text"):
        (stats,) = httpx.get(server.url(f"/v2/models/{tower}/stats")).json()["model_stats"]
        found[tower] = stats["inference_count"], stats["execution_count"]
    return found


def test_a_pair_that_cannot_be_scored_fails_alone(server: tuple[Running, int]) -> None:
    ((image, caption),) = drawn_pairs(1)
    good = (png(image), caption.encode())
    huge = png(Image.new("1", (8000, 7000)))
    bad = {
        "not_an_image": (b"<html>404</html>", b"a dog"),
        "truncated": (good[0][:400], b"a dog"),
        "too_many_bytes": (good[0] + bytes(Limits().max_bytes), b"a dog"),
        "too_many_pixels": (huge, b"a dog"),
        "empty_caption": (good[0], b" \t"),
        "empty_caption: the caption is not UTF-8": (good[0], b"\xff\xfe"),
    }
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda pair: infer(server[0], [pair]), [*bad.values(), *[good] * 10]))
    for said, answer in zip(bad, answers, strict=False):
        assert said in answer["error"]
    scores = {output(answer, "similarity")[0] for answer in answers[len(bad) :]}
    assert len(scores) == 1
    only = infer(server[0], [good, good], wanted=["similarity"])
    assert [one["name"] for one in only["outputs"]] == ["similarity"]
    assert output(only, "similarity") == [scores.pop()] * 2


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_the_library_can_use_the_towers_of_a_server(
    server: tuple[Running, int], repository: Path, tmp_path: Path, scheme: str
) -> None:
    url = f"{scheme}://127.0.0.1:{server[0].port if scheme == 'http' else server[1]}"
    records = []
    for number, (image, caption) in enumerate(drawn_pairs(40)):
        image.save(path := tmp_path / f"{number}.png")
        records.append(Record(url=str(path), text=caption))
    config = Config(model=repository, triton_url=url)
    found = [result.similarity for result in score_pairs(records, config)]
    expected = [result.similarity for result in score_pairs(records, Config(model=repository))]
    assert np.abs(np.subtract(found, expected)).max() <= 1e-6
    info = load_encoder(config).info
    assert (info.backend, info.device) == ("triton", "remote")


def test_towers_of_another_model_are_refused(server: tuple[Running, int], exported: tuple[Path, ExportSummary]) -> None:
    with pytest.raises(ModelError, match=r"refused a request to model 'image'|instead of"):
        load_encoder(Config(model=exported[0], triton_url=server[0].url("")))


def test_configurations_are_tritons_own_format(repository: Path, tiny_clip: Path, tmp_path: Path) -> None:
    """The variants that need a GPU or a larger image differ from the tested one only in what runs the towers."""
    export_model(Config(model=tiny_clip), tmp_path / "ort", ExportOptions(to="triton"))
    assert {path.parent.name for path in repository.glob("*/config.pbtxt")} == {
        path.parent.name for path in (tmp_path / "ort").glob("*/config.pbtxt")
    }
    for path in [*repository.glob("*/config.pbtxt"), *(tmp_path / "ort").glob("*/config.pbtxt")]:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        assert config.name == path.parent.name
        assert config.max_batch_size == 64
        if path.is_relative_to(tmp_path) and config.name in ("image", "text"):
            assert config.backend == "onnxruntime"
            assert (path.parent / "1" / "model.onnx").is_file()
            assert not (path.parent / "1" / "model.py").exists()
