"""Write a folder that transformers.js loads, in a browser or in Node.

transformers.js reads neither our manifest nor our preprocessing, so the graphs, the tokenizer and the settings of the
image processor are written to the files where it expects them. The resized images differ from Pillow's in any case,
because browsers resize differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from tokenizers import Tokenizer

from ..encoders.token_files import CAPTIONS, open_tokens
from ..encoders.web_backend import DTYPES, PREPROCESSOR, web_graph
from ..errors import ModelError
from .folder import side
from .web_graphs import text_graph, vision_graph

_OUTPUTS = {"clip": ("image_embeds", "text_embeds"), "siglip": ("pooler_output", "pooler_output")}


def write_web(onnx_folder: Path, out: Path, facts: Mapping[str, Any]) -> None:
    """Write the graphs and the settings of an export for transformers.js.

    Args:
        onnx_folder: Folder with `image.onnx` and `text.onnx`.
        out: An existing folder that holds `tokenizer.json`.
        facts: The entries of the manifest.

    Raises:
        ModelError: transformers.js does not support the model's captions or images, or a graph is too large for it.
    """
    source = facts["source"]["model"]
    if lack := _lack(onnx_folder, facts):
        raise ModelError(f"{source} cannot be exported for browsers: {lack}")
    kind = "siglip" if facts["tokens"]["whole"] else "clip"
    image_output, text_output = _OUTPUTS[kind]
    (out / "onnx").mkdir()
    if facts["tokens"]["encode_special_tokens"]:
        _forget_added_tokens(out / "tokenizer.json")
    end = end_token(out, facts)
    onnx.save(vision_graph(onnx_folder / "image.onnx", image_output), web_graph(out, "image", facts["precision"]))
    onnx.save(text_graph(onnx_folder / "text.onnx", text_output, end), web_graph(out, "text", facts["precision"]))
    for name, said in (
        ("config.json", _config(kind, facts)),
        ("tokenizer_config.json", _tokenizer_config(out, facts, end)),
        (PREPROCESSOR, _preprocessor_config(facts)),
    ):
        (out / name).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _lack(onnx_folder: Path, facts: Mapping[str, Any]) -> str | None:
    """Return what a model needs that transformers.js does not support, or None."""
    tokens, how = facts["tokens"], facts["preprocess"]
    if tokens["clean"] is not None:
        return (
            "open_clip cleans its captions with ftfy before they are tokenized, and transformers.js has no equivalent"
        )
    if how["patches"] or how["fit"] != "squash":
        return "transformers.js does not support its preprocessing of images"
    if list(onnx_folder.glob("*.data")):
        return "a tower of more than 2 GB does not fit into a browser's memory; try precision fp16 or int8"
    return None


def _forget_added_tokens(path: Path) -> None:
    """Make a tokenizer read the names of special tokens as plain text; transformers.js has no setting for that."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def end_token(folder: Path, facts: Mapping[str, Any]) -> int | None:
    """Return the token that ends every caption, or None if there is none."""
    ends = {row[-1] for row in open_tokens(folder, facts["tokens"]).encode(CAPTIONS)}
    return ends.pop() if len(ends) == 1 else None


def _config(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    height, _ = side(facts)
    return {
        "model_type": kind,
        "projection_dim": facts["embed_dim"],
        "text_config": {"max_position_embeddings": facts["context_length"]},
        "vision_config": {"image_size": height},
        "transformers.js_config": {"dtype": DTYPES[facts["precision"]]},
    }


def _tokenizer_config(folder: Path, facts: Mapping[str, Any], end: int | None) -> dict[str, Any]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    named = {"pad_token": facts["tokens"]["pad"], "eos_token": end}
    return {
        "tokenizer_class": "SiglipTokenizer" if facts["tokens"]["whole"] else "CLIPTokenizer",
        "model_max_length": facts["context_length"],
        "padding_side": "right",
        **{name: tokenizer.id_to_token(token) for name, token in named.items() if token is not None},
    }


def _preprocessor_config(facts: Mapping[str, Any]) -> dict[str, Any]:
    how = facts["preprocess"]
    size, crop = how["size"], how["crop"]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size} if isinstance(size, int) else {"height": size[0], "width": size[1]},
        "resample": how["resample"],
        "do_center_crop": crop is not None,
        **({"crop_size": {"height": crop[0], "width": crop[1]}} if crop else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": how["mean"],
        "image_std": how["std"],
    }
