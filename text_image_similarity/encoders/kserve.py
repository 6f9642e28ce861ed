"""Exchange tensors with an inference server by the KServe v2 protocol, over HTTP with binary tensors or over gRPC.

Triton, KServe, OpenVINO Model Server and others support this protocol. The protocol is specified at kserve.github.io,
"Open Inference Protocol", and in Triton's extension for binary tensor data.
"""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Callable
from threading import Lock
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from ..bounded_json import parse_json
from ..errors import DeviceLostError, ModelError, RowError
from ..fetch import read_response
from ..system import backoff_s, require

_TYPES = {"uint8": "UINT8", "int64": "INT64"}
_CONNECT_S, _ANSWER_S = 3.0, 60.0
_PATIENCE_S = 60.0  # how long a server may be unreachable before a run ends
_MOST_ANSWER = 64 * 1024 * 1024  # bytes; the vectors of 1,000 images take about 4 MB
_PASSING = (429, 502, 503, 504)


class _AwayError(Exception):
    """The server cannot be reached or is too busy, which may be temporary."""


class InferenceServer(Protocol):
    """A server that runs models; safe to share between threads."""

    url: str

    def infer(self, model: str, name: str, values: NDArray[Any], wanted: str) -> NDArray[np.float32]:
        """Run a model on one tensor and return its output, shape (n, embed_dim) float32.

        Args:
            model: Name of the model.
            name: Name of the model's input.
            values: The input, uint8 or int64.
            wanted: Name of the model's output.

        Raises:
            ModelError: The server refuses the request, or does not return this output.
            DeviceLostError: The server could not be reached for a minute.
        """


def connect(url: str) -> InferenceServer:
    """Return the server at `http(s)://host:port` or `grpc(s)://host:port`, without sending anything.

    Raises:
        MissingExtraError: The URL is for gRPC, and the extra `triton` is not installed.
    """
    return _Grpc(url) if urlsplit(url).scheme.startswith("grpc") else _Http(url)


def _patiently(url: str, ask: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    until, tries = time.monotonic() + _PATIENCE_S, 0
    while True:
        try:
            return ask()
        except _AwayError as exc:
            pause = backoff_s(tries)
            if time.monotonic() + pause > until:
                raise DeviceLostError(
                    f"the inference server {url} has not responded for {_PATIENCE_S:.0f} s ({exc}); start again when it is available: "
                    "finished work is kept"
                ) from exc
            time.sleep(pause)
            tries += 1


class _Http:
    def __init__(self, url: str) -> None:
        self.url, self._lock, self._process = url.rstrip("/"), Lock(), 0

    def _client_here(self) -> httpx.Client:
        """Return this process's client. A client inherited through a fork would share the parent's connections."""
        with self._lock:
            if self._process != os.getpid():
                self._client = httpx.Client(timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S), trust_env=False)
                weakref.finalize(self, self._client.close)  # encoders have no close method
                self._process = os.getpid()
            return self._client

    def infer(self, model: str, name: str, values: NDArray[Any], wanted: str) -> NDArray[np.float32]:
        return _patiently(self.url, lambda: self._infer(model, name, values, wanted))

    def _infer(self, model: str, name: str, values: NDArray[Any], wanted: str) -> NDArray[np.float32]:
        given = {"name": name, "shape": values.shape, "datatype": _TYPES[values.dtype.name]}
        asked = {
            "inputs": [{**given, "parameters": {"binary_data_size": values.nbytes}}],
            "outputs": [{"name": wanted, "parameters": {"binary_data": True}}],
        }
        head = json.dumps(asked).encode()
        try:
            answer = self._post(
                f"{self.url}/v2/models/{model}/infer",
                head + np.ascontiguousarray(values).tobytes(),
                {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))},
            )
        except (httpx.DecodingError, RowError) as exc:
            raise ModelError(f"the inference server {self.url} returned a response that cannot be read: {exc}") from exc
        except httpx.HTTPError as exc:
            raise _AwayError(f"{type(exc).__name__}: {exc}") from exc
        if answer.status_code in _PASSING:
            raise _AwayError(f"status {answer.status_code}")
        if answer.status_code != 200:
            raise ModelError(f"the inference server {self.url} refused a request to model {model!r}: {_said(answer)}")
        return self._read(model, answer, wanted)

    def _post(self, url: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        headers = {**headers, "Accept-Encoding": "identity"}
        with self._client_here().stream("POST", url, content=content, headers=headers) as answer:
            return read_response(answer, _MOST_ANSWER)

    def _read(self, model: str, answer: httpx.Response, wanted: str) -> NDArray[np.float32]:
        try:
            start = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
            for output in parse_json(answer.content[:start].decode())["outputs"]:
                size = output.get("parameters", {}).get("binary_data_size")
                if output["name"] == wanted:
                    return _values(output, None if size is None else answer.content[start : start + size])
                start += size or 0
            raise ValueError("it is not among the outputs")
        except KeyError as exc:
            raise ModelError(
                f"the inference server {self.url} returned no usable {wanted!r} for model {model!r}: {exc} is missing"
            ) from exc
        except (ValueError, TypeError, AttributeError) as exc:
            raise ModelError(
                f"the inference server {self.url} returned no usable {wanted!r} for model {model!r}: {exc}"
            ) from exc


def _values(output: dict[str, Any], content: bytes | None) -> NDArray[np.float32]:
    if output["datatype"] != "FP32":
        raise ValueError(f"it is {output['datatype']}, not FP32")
    with np.errstate(over="ignore"):
        values = np.array(output["data"], np.float32) if content is None else np.frombuffer(content, "<f4")
    return values.reshape(output["shape"])


def _said(answer: httpx.Response) -> str:
    try:
        return str(parse_json(answer.content.decode())["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


class _Grpc:
    def __init__(self, url: str) -> None:
        require("an inference server over gRPC", "tritonclient", "grpc", extra="triton")
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self.url = url.rstrip("/")
        self._messages, self._grpc = service_pb2, grpc
        options = [("grpc.max_receive_message_length", _MOST_ANSWER), ("grpc.max_send_message_length", -1)]
        place = urlsplit(url)
        channel = (
            grpc.secure_channel(place.netloc, grpc.ssl_channel_credentials(), options)
            if place.scheme == "grpcs"
            else grpc.insecure_channel(place.netloc, options)
        )
        weakref.finalize(self, channel.close)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def infer(self, model: str, name: str, values: NDArray[Any], wanted: str) -> NDArray[np.float32]:
        return _patiently(self.url, lambda: self._infer(model, name, values, wanted))

    def _infer(self, model: str, name: str, values: NDArray[Any], wanted: str) -> NDArray[np.float32]:
        request = self._messages.ModelInferRequest(model_name=model)
        taken = request.inputs.add(name=name, datatype=_TYPES[values.dtype.name])
        taken.shape.extend(values.shape)
        request.outputs.add(name=wanted)
        request.raw_input_contents.append(np.ascontiguousarray(values).tobytes())
        codes = self._grpc.StatusCode
        try:
            answer = self._stub.ModelInfer(request, timeout=_ANSWER_S)
        except self._grpc.RpcError as exc:
            too_long = "larger than max" in str(exc.details())
            if not too_long and exc.code() in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.RESOURCE_EXHAUSTED):
                raise _AwayError(f"{exc.code().name}: {exc.details()}") from exc
            raise ModelError(
                f"the inference server {self.url} refused a request to model {model!r}: {exc.details()}"
            ) from exc
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=False):
            if output.name == wanted and output.datatype == "FP32":
                return np.frombuffer(content, "<f4").reshape(list(output.shape))
        raise ModelError(f"the inference server {self.url} returned no {wanted!r} for model {model!r}")
