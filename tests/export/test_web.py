"""Exports for browsers, run by the real transformers.js on ONNX Runtime's WebAssembly, under Node."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import string
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.support.paths import ROOT
from text_image_similarity import (
    Config,
    ExportOptions,
    ExportSummary,
    ModelError,
    Record,
    UsageError,
    check_export,
    export_model,
    load_encoder,
    score_pairs,
)
from text_image_similarity.encoders import PreparingEncoder, model_folder
from text_image_similarity.encoders.drawn import drawn_pairs
from text_image_similarity.encoders.exported import hashes, manifest_text, read_manifest
from text_image_similarity.encoders.graphs import OPSET
from text_image_similarity.encoders.protocols import CutIds
from text_image_similarity.encoders.token_files import write_tokens
from text_image_similarity.encoders.weights import arranged, read_weights
from text_image_similarity.export.folder import describe, facts_of
from text_image_similarity.export.options import Target
from text_image_similarity.export.web import write_web

LIBRARY = ROOT / "build" / "web"  # where `make tools` puts it
DRIVER = Path(__file__).with_name("transformers_js.mjs")
CLIP = (
    "CLIPVisionModelWithProjection",
    "CLIPTextModelWithProjection",
), True  # its classes, and how captions are filled up
SIGLIP = ("SiglipVisionModel", "SiglipTextModel"), "max_length"
CAPTIONS = ["a dog on grass", "", "word " * 200, "“Ünïcode” — 日本語 🐕‍🦺", "<|endoftext|> [SEP] <eos> x"]
COUNT = int(os.environ.get("CAPTIONS", "300"))
# All but a byte order mark, a final sigma and rare Chinese characters, which JavaScript reads differently (docs/deploy-a-model.md).
EVERY_KIND = "aA1 .,!?'\"-_&<>\t\n\u00a0\u200b\u0301äßéïİıДжאبहि한日本語ｱＡﬁ😀🐕‍🦺🇨🇭"

Models = dict[str, tuple[str | Path, Path]]  # the source and its export for browsers, by name


def web_of(onnx_folder: Path, out: Path, facts: dict[str, Any]) -> Path:
    """Make an export for browsers of one for ONNX Runtime."""
    out.mkdir()
    shutil.copy(onnx_folder / "tokenizer.json", out)
    write_web(onnx_folder, out, facts := {**facts, "format": "web"})
    describe(out, facts, [], passed=True)
    return out


def mini_graphs(folder: Path) -> dict[str, Any]:
    """Put mini's weights into the graphs that lie beside them, and return what a manifest says of them."""
    home, encoder = model_folder("mini"), load_encoder(Config(model="mini", backend="onnx"))
    weights = read_weights(home / "model.safetensors")
    names = json.loads((home / "encoder.json").read_text("utf-8"))["initializers"]
    folder.mkdir()
    for tower in ("image", "text"):
        model = onnx.load(home / f"{tower}.onnx", load_external_data=False)
        for value in model.graph.initializer:
            if value.data_location == TensorProto.EXTERNAL:
                value.CopyFrom(numpy_helper.from_array(arranged(weights, names[tower][value.name]), value.name))
        onnx.save(model, folder / f"{tower}.onnx")
    facts = {**facts_of(encoder, None), "precision": "fp32", "recipe": None, "opset": OPSET}  # type: ignore[arg-type]
    return {**facts, "tokens": write_tokens(encoder, folder)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def models(
    exported: tuple[Path, ExportSummary], tiny_clip: Path, tiny_siglip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Models:
    """The tiny CLIP in both precisions, mini, and the tiny SigLIP; `export_model` itself makes fp16 and SigLIP."""
    place, tiny = tmp_path_factory.mktemp("web"), exported[0]
    export_model(Config(model=tiny_clip), place / "half", ExportOptions(to="web", precision="fp16"))
    export_model(Config(model=tiny_siglip), place / "siglip", ExportOptions(to="web"))
    facts = mini_graphs(place / "graphs")
    return {
        "tiny": (tiny_clip, web_of(tiny, place / "tiny", read_manifest(tiny))),
        "half": (tiny_clip, place / "half"),
        "mini": ("mini", web_of(place / "graphs", place / "mini", facts)),
        "siglip": (tiny_siglip, place / "siglip"),
    }


@pytest.fixture(scope="module")
def found(models: Models, exported: tuple[Path, ExportSummary]) -> dict[str, dict[str, Any]]:
    """What JavaScript makes of captions and of three pictures, which it is given in the model's own size."""
    if shutil.which("node") is None or not (LIBRARY / "node_modules").is_dir():
        pytest.skip("transformers.js is not in build/web, where `make tools` puts it, or Node is missing")
    jobs: dict[str, dict[str, Any]] = {"graph": {"graph": str(exported[0] / "image.onnx"), **pictures(exported[0])}}
    for name, (_, folder) in models.items():
        classes, padding = SIGLIP if name == "siglip" else CLIP
        jobs[name] = {"model": str(folder), "captions": CAPTIONS, "classes": classes, "padding": padding}
        jobs[name] |= pictures(folder)
        jobs[f"{name} ids"] = {"model": str(folder), "captions": captions()}
    # Without the optimising compiler, which spends a minute on ONNX Runtime, and the job is done in a second.
    command = ["node", "--liftoff-only", str(DRIVER), str(LIBRARY)]
    done = subprocess.run(
        command, input=json.dumps([*jobs.values()]), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(jobs, json.loads(done.stdout), strict=True))


def pixels_for(encoder: PreparingEncoder) -> list[Any]:
    return [encoder.prepare(image) for image, _ in drawn_pairs(3)]


def pictures(folder: Path) -> dict[str, Any]:
    pixels = pixels_for(load_encoder(Config(model=folder)))
    texts = [base64.b64encode(one.tobytes()).decode() for one in pixels]
    return {"pixels": texts, "size": pixels[0].shape[:2]}


def captions() -> list[str]:
    """Return captions of all kinds of characters, some with special tokens in them, some too long for any model."""
    rng, words = random.Random(0), ["a", "dog", "photo's", "[SEP]", "<|endoftext|>", "<|startoftext|>", "&amp;", "12"]
    found = []
    for _ in range(COUNT):
        parts = [
            rng.choice(words) if rng.random() < 0.4 else "".join(rng.choices(EVERY_KIND, k=rng.randrange(9)))
            for _ in range(rng.choice((1, 3, 10, 150)))
        ]
        found.append(rng.choice(("", " ")).join(parts))
    return found


@pytest.mark.extended
@pytest.mark.server
@pytest.mark.parametrize(("name", "bound"), [("tiny", 1e-5), ("half", 1e-3), ("mini", 1e-5), ("siglip", 1e-5)])
def test_a_browser_gives_the_vectors_of_the_source(
    models: Models, found: dict[str, dict[str, Any]], name: str, bound: float
) -> None:
    source = load_encoder(Config(model=models[name][0], device="cpu", backend="torch"))
    image, text = source.encode_pixels(pixels_for(source)), source.encode_tokens(source.tokenize(CAPTIONS))
    assert np.abs(np.reshape(found[name]["image"], image.shape) - image).max() <= bound
    assert np.abs(np.reshape(found[name]["text"], text.shape) - text).max() <= bound
    assert np.ptp(text, axis=0).max() > 0.05


@pytest.mark.extended
@pytest.mark.server
@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_a_browser_reads_captions_as_python_does(models: Models, found: dict[str, dict[str, Any]], name: str) -> None:
    rows = [list(row) for row in load_encoder(Config(model=models[name][1])).tokenize(captions())]
    cut = [len(row) == max(map(len, rows)) for row in rows]
    assert 10 < sum(cut) < len(cut) / 2
    end = rows[0][-1]
    # It cuts captions without keeping the end token, which the graph then puts back.
    theirs = [
        [*row[:-1], end] if was_cut else row for row, was_cut in zip(found[f"{name} ids"]["ids"], cut, strict=True)
    ]
    assert theirs == rows


@pytest.mark.extended
@pytest.mark.server
def test_a_browser_reads_captions_for_siglip_as_its_tokenizer_does(
    models: Models, found: dict[str, dict[str, Any]]
) -> None:
    tokens = load_encoder(Config(model=models["siglip"][0], device="cpu", backend="torch")).tokens  # type: ignore[attr-defined]
    length, texts = tokens.context_length, captions()
    ours, theirs = tokens.encode(texts), found["siglip ids"]["ids"]
    # JavaScript reads a zero-width joiner as a space, and composes an accent with the last letter of a ligature.
    plain = [text.translate(str.maketrans("", "", string.punctuation)) for text in texts]  # as SigLIP reads it
    same = [i for i, text in enumerate(plain) if "\u200d" not in text and "ﬁ\u0301" not in text]
    whole = [i for i in same if len(ours[i]) < length]
    cut = [i for i in same if isinstance(ours[i], CutIds)]
    assert [ours[i] for i in whole] == [theirs[i] for i in whole]
    assert [ours[i][:-1] for i in cut] == [theirs[i][:-1] for i in cut]  # the graph puts the end token in its place
    assert len(whole) > 50
    assert len(cut) > 50


@pytest.mark.extended
@pytest.mark.server
def test_a_plain_graph_runs_in_a_browser_too(
    exported: tuple[Path, ExportSummary], found: dict[str, dict[str, Any]]
) -> None:
    encoder = load_encoder(Config(model=exported[0]))
    expected = encoder.encode_pixels(pixels_for(encoder))
    assert np.abs(np.reshape(found["graph"]["image"], expected.shape) - expected).max() <= 1e-6


@pytest.mark.extended
def test_an_export_for_browsers_is_scored_and_checked_in_python(models: Models, tmp_path: Path) -> None:
    source, folder = models["half"]
    image, caption = next(drawn_pairs(1))
    image.save(path := tmp_path / "one.png")
    before, after = (
        next(score_pairs([Record(url=str(path), text=caption)], Config(model=model))) for model in (source, folder)
    )
    assert 0 < abs(before.similarity - after.similarity) <= 2e-3
    assert (
        load_encoder(Config(model=folder)).info.export
        == f"web export of {source}, {read_manifest(folder)['digest'][:12]}"
    )
    assert check_export(folder)[0].passed
    card = (folder / "README.md").read_text("utf-8")
    assert "CLIPTextModelWithProjection.from_pretrained(model)" in card
    with pytest.raises(UsageError, match="--force"):
        export_model(Config(model=source), folder, ExportOptions(to="web"))
    shutil.copytree(folder, damaged := tmp_path / "damaged")
    with (damaged / "config.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    with pytest.raises(ModelError, match=r"config\.json has .* bytes instead of"):
        load_encoder(Config(model=damaged))


@pytest.mark.extended
@pytest.mark.parametrize("to", ["onnx", "web"])
def test_int8_multiplies_bytes_only_where_it_is_given_bytes(to: Target, tiny_clip: Path, tmp_path: Path) -> None:
    options = ExportOptions(to=to, precision="int8", recipe="dynamic", allow_drift=True)
    export_model(Config(model=tiny_clip), out := tmp_path / to, options)
    (path,) = (out / "onnx").glob("vision*.onnx") if to == "web" else [out / "image.onnx"]
    graph = onnx.load(path).graph
    kind = TensorProto.FLOAT if to == "web" else TensorProto.UINT8
    assert graph.input[0].type.tensor_type.elem_type == kind
    assert ("Conv" in {node.op_type for node in graph.node}) == (to == "web")
    source, export = (load_encoder(Config(model=model, device="cpu")) for model in (tiny_clip, out))
    images = [image for image, _ in drawn_pairs(4)]
    assert (source.encode_image(images) * export.encode_image(images)).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": {"clean": "lower"}}, r"open_clip cleans its captions with ftfy"),
        ({"preprocess": {"fit": "inside"}}, r"does not support its preprocessing of images"),
    ],
)
def test_what_a_browser_cannot_do_is_refused(
    exported: tuple[Path, ExportSummary], tmp_path: Path, change: dict[str, dict[str, Any]], said: str
) -> None:
    facts = read_manifest(exported[0])
    for name, given in change.items():
        facts[name] |= given
    with pytest.raises(ModelError, match=said):
        web_of(exported[0], tmp_path / "out", facts)


def test_another_tools_graph_is_refused(exported: tuple[Path, ExportSummary], tmp_path: Path) -> None:
    shutil.copytree(exported[0], folder := tmp_path / "other")
    shutil.copy(folder / "text.onnx", folder / "image.onnx")
    with pytest.raises(ModelError, match="does not begin with normalisation"):
        web_of(folder, tmp_path / "out", read_manifest(exported[0]))


def test_the_settings_of_an_export_for_browsers_are_small(exported: tuple[Path, ExportSummary], tmp_path: Path) -> None:
    folder = web_of(exported[0], tmp_path / "theirs", read_manifest(exported[0]))
    file, manifest = folder / "preprocessor_config.json", folder / "export.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for content, said in (
        (
            json.dumps({**settings, "image_mean": [[[0.5] * 3]] * 1000}),
            "a mean or a standard deviation of images that is",
        ),
        (json.dumps({**settings, "image_std": [0.5] * 4}), "a mean or a standard deviation of images that is"),
        (json.dumps(settings), ""),
    ):
        file.write_text(content, encoding="utf-8")
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        facts["files"][file.name] = hashes(folder, [file.name])[file.name]
        manifest.write_text(manifest_text(facts), encoding="utf-8")
        with pytest.raises(ModelError, match=said) if said else nullcontext():
            load_encoder(Config(model=folder))
    manifest.write_text(manifest_text({**facts, "more": "x" * (16 << 20)}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"export\.json: it has more than 16 MiB"):
        read_manifest(folder)
