"""Export mini to the two ONNX graphs that the wheel contains, without the weights, which stay in `model.safetensors`.

    .venv/bin/python -m scripts.export_mini

The graphs are like those of any export (`encoders.graphs`), except that initializers that are weights become external
data. `encoder.json` says which weight each of them is, and the library passes the weights to ONNX Runtime when it opens
the graphs.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from text_image_similarity import Config
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.dual_encoder import load_dual_encoder
from text_image_similarity.encoders.fingerprint import FACTS
from text_image_similarity.encoders.onnx_export import export
from text_image_similarity.encoders.weights import SHIFTED, TRANSPOSED, arranged, read_weights

SMALLEST = 16  # values; constants of the graphs are smaller, weights are not


def main() -> None:
    """Write the graphs and `encoder.json` next to mini's weights."""
    mini = model_folder("mini")
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(mini, export_whole(mini, Path(folder) / "whole"), mini)


def export_whole(model: Path, out: Path) -> Path:
    """Export a dual encoder's folder as the library would, and return the folder of the export."""
    export(load_dual_encoder(model, Config(model=model, device="cpu", backend="torch")), out, int8=False)
    return out


def write_graphs(model: Path, whole: Path, out: Path) -> None:
    """Write the `image.onnx`, `text.onnx` and `encoder.json` of an exported dual encoder, without its weights.

    Args:
        model: The folder of the model.
        whole: The folder of the model's export.
        out: The folder to write to.
    """
    weights = read_weights(model / "model.safetensors")
    facts = json.loads((whole / FACTS).read_text(encoding="utf-8"))
    facts["initializers"] = {}
    for tower in ("image", "text"):
        graph = onnx.load(whole / f"{tower}.onnx")
        facts["initializers"][tower] = take_weights_out(graph, weights)
        drop_notes(graph)
        (out / f"{tower}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    (out / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def take_weights_out(graph: onnx.ModelProto, weights: dict[str, NDArray[np.float32]]) -> dict[str, str]:
    """Make the weights among a graph's initializers external data, and return the name of the weight for each of them.

    Raises:
        ValueError: An initializer is as large as a weight but is not one.
    """
    names = {}
    for initializer in graph.graph.initializer:
        value = onnx.numpy_helper.to_array(initializer)
        if value.dtype == np.float32 and value.size >= SMALLEST:
            name = names[initializer.name] = name_of(value, weights)
            initializer.ClearField("raw_data")
            initializer.data_location = onnx.TensorProto.EXTERNAL
            # A file that does not exist, so that only the weights that are passed in can be used.
            initializer.external_data.add(key="location", value=name)
    return names


def name_of(value: NDArray[np.float32], weights: dict[str, NDArray[np.float32]]) -> str:
    """Return the name of the weight with a value, as `weights.arranged` reads it.

    Raises:
        ValueError: No weight has this value.
    """
    for name, weight in weights.items():
        for suffix in {1: ("",), 2: ("", TRANSPOSED), 4: ("", SHIFTED)}.get(weight.ndim, ()):
            candidate = arranged({name: weight}, name + suffix)
            if candidate.shape == value.shape and candidate.tobytes() == value.tobytes():
                return name + suffix
    raise ValueError(f"an initializer of shape {value.shape} is not a weight of the model")


def drop_notes(graph: onnx.ModelProto) -> None:
    """Drop the exporter's notes on itself and on this machine: versions, stack traces, file names."""
    graph.producer_name = graph.producer_version = ""
    inner = graph.graph
    for noted in (graph, inner, *inner.node, *inner.value_info, *inner.input, *inner.output, *inner.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""


if __name__ == "__main__":
    main()
