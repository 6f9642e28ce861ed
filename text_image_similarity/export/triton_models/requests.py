"""Requests of Triton's python backend to arrays, and back; a request that fails fails alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RowError

Arrays = dict[str, NDArray[Any]]


def text_parameters(args: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a model's `config.pbtxt`."""
    given = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in given.items()}


def taken(request: Any, names: Sequence[str]) -> Arrays:
    """Return a request's inputs."""
    import triton_python_backend_utils as backend  # type: ignore[import-not-found]

    return {name: backend.get_input_tensor_by_name(request, name).as_numpy() for name in names}


def answer(outputs: Arrays | Exception) -> Any:
    """Return a response: outputs, or what was wrong with the request."""
    import triton_python_backend_utils as backend

    if isinstance(outputs, Exception):
        blamed = isinstance(outputs, RowError)
        said = str(outputs) if blamed else f"encoder_error: {type(outputs).__name__}: {outputs}"
        code = backend.TritonError.INVALID_ARG if blamed else backend.TritonError.INTERNAL
        return backend.InferenceResponse(error=backend.TritonError(said, code))
    tensors = [backend.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()]
    return backend.InferenceResponse(output_tensors=tensors)


def attempt(work: Callable[[], Arrays]) -> Arrays | Exception:
    """Return what a function returns, or the exception that it raises."""
    try:
        return work()
    except Exception as exc:  # of one request, which must not cost the others of its batch
        return exc
