"""Write an ONNX file one weight after another, so that memory holds only one weight at a time.

`onnx.save` needs the whole file in memory three times. An ONNX file is a protobuf message, in which the graph is a
field and each weight is a field of the graph; a field is written as its number, its length and its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from .arrays import array_of

_LARGEST = 2**31 - 2**20  # size of the largest file that protobuf reads, in bytes
_SMALL = 1024  # smaller weights, in bytes, stay in the graph
_ALIGNED = 4096  # weights in a separate file begin at multiples of this many bytes, so that they can be memory-mapped

Made = Mapping[str, Callable[[], NDArray[Any]]]
_Weight = tuple[
    TensorProto, Callable[[], NDArray[Any]]
]  # a weight's name, type and shape, and a function that returns its values


def write_graph(model: ModelProto, path: Path, folder: Path, *, made: Made | None = None, apart: bool = False) -> None:
    """Write a graph to a file; if it exceeds 2 GB, its weights go to a second file, named like the first plus `.data`.

    Args:
        model: The graph, loaded without its external data; its weights are removed.
        path: The file to write.
        folder: Folder of the graph's external data.
        made: Functions that return weights of which the model has only the name, type and shape.
        apart: Whether to write weights to a separate file however small they are.
    """
    made, light = made or {}, []
    weights: list[_Weight] = []
    for weight in model.graph.initializer:
        if weight.name in made:
            weights.append((weight, made[weight.name]))
        elif weight.data_location == TensorProto.EXTERNAL or (_is_plain(weight) and _size(weight) >= _SMALL):
            weights.append((_header(weight), partial(array_of, weight, folder)))
        else:
            light.append(weight)
    del model.graph.initializer[:]
    model.graph.initializer.extend(light)
    if apart or model.ByteSize() + sum(_size(header) for header, _ in weights) > _LARGEST:
        _write_beside(model, path, weights)
    else:
        _write_within(model, path, weights)


def _write_within(model: ModelProto, path: Path, weights: list[_Weight]) -> None:
    headers = [header.SerializeToString() for header, _ in weights]
    starts = [_field(TensorProto.RAW_DATA_FIELD_NUMBER, _size(header)) for header, _ in weights]
    inner = model.graph.SerializeToString()
    fields = [
        _field(GraphProto.INITIALIZER_FIELD_NUMBER, len(header) + len(start) + _size(weight)) + header + start
        for header, start, (weight, _) in zip(headers, starts, weights, strict=True)
    ]
    whole = len(inner) + sum(map(len, fields)) + sum(_size(header) for header, _ in weights)
    model.ClearField("graph")
    with path.open("wb") as file:
        file.write(model.SerializeToString() + _field(ModelProto.GRAPH_FIELD_NUMBER, whole) + inner)
        for field, (_, value) in zip(fields, weights, strict=True):
            file.write(field)
            file.write(_bytes_of(value()))


def _write_beside(model: ModelProto, path: Path, weights: list[_Weight]) -> None:
    location = f"{path.name}.data"
    with path.with_name(location).open("wb") as file:
        for header, value in weights:
            file.write(bytes(-file.tell() % _ALIGNED))
            place = {"location": location, "offset": file.tell(), "length": _size(header)}
            file.write(_bytes_of(value()))
            header.data_location = TensorProto.EXTERNAL
            header.external_data.extend(
                onnx.StringStringEntryProto(key=key, value=str(at)) for key, at in place.items()
            )
            model.graph.initializer.append(header)
    onnx.save(model, path)


def _header(weight: TensorProto) -> TensorProto:
    return TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims)


def _is_plain(weight: TensorProto) -> bool:
    return weight.data_type != TensorProto.STRING


def _size(weight: TensorProto) -> int:
    return int(np.prod(weight.dims, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize


def _bytes_of(value: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data


def _field(number: int, size: int) -> bytes:
    """Return the number and the length with which a field of `size` bytes begins."""
    found = [number << 3 | 2]
    while size >= 128:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes([*found, size])
