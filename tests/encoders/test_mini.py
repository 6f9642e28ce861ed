"""mini starts from the graphs in the wheel: nothing is exported, and nothing that exports need not be installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scripts import export_mini
from tests.support.images import noise
from tests.support.missing import run_without
from tests.support.paths import ROOT
from tests.support.records import captions
from text_image_similarity import Config, ModelError, Record, load_encoder, score_pairs
from text_image_similarity.encoders import model_folder, onnx_export
from text_image_similarity.encoders.onnx_backend import open_backend
from text_image_similarity.encoders.two_tower import TwoTowerEncoder

NEEDLESS = ("torch", "torchvision", "transformers", "onnx", "onnxscript", "huggingface_hub", "pandas", "scipy")
RECORD = Record(url=str(ROOT / "challenge_set" / "farm.jpg"), text="a farm with a cow")

SCORE = f"""
from text_image_similarity import Config, Record, score_pairs
for result in score_pairs([{RECORD!r}], Config(model="mini")):
    print(repr(float(result.similarity)), result.error)
"""


def a_score() -> str:
    """Return what `SCORE` prints, as this process computes it."""
    (result,) = score_pairs([RECORD], Config(model="mini", device="cpu"))
    assert result.error is None
    return f"{float(result.similarity)!r} None\n"


def test_git_does_not_change_line_ends_of_mini() -> None:
    """Git for Windows would, unless told not to; the graphs would then no longer belong to the files next to them."""
    files = [str(path) for path in model_folder("mini").iterdir() if path.is_file()]
    command = ["git", "check-attr", "text", "--", *files]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(found) == len(files)
    assert all(line.endswith(": text: unset") for line in found)


def copy_of_mini(folder: Path) -> Path:
    shutil.copytree(model_folder("mini"), folder)
    return folder


@pytest.mark.extended
def test_the_graphs_in_the_wheel_are_those_of_an_export_of_today(tmp_path: Path) -> None:
    mini = model_folder("mini")
    whole = export_mini.export_whole(mini, tmp_path / "whole")
    export_mini.write_graphs(mini, whole, tmp_path)
    for name in ("image.onnx", "text.onnx", "encoder.json"):
        assert (tmp_path / name).read_bytes() == (mini / name).read_bytes(), "python -m scripts.export_mini writes them"
    ours = load_encoder(Config(model="mini", backend="onnx"))
    assert isinstance(ours, TwoTowerEncoder)
    exported = open_backend(whole, ours.tokens, precision="fp32")
    pixels = [ours.prepare(image) for image in noise(32)]
    rows = sorted(ours.tokenize([*captions(30), "", "日本語"]), key=len)
    for count in (1, 3, 32):
        np.testing.assert_array_equal(ours.backend.image(pixels[:count]), exported.image(pixels[:count]))
        np.testing.assert_array_equal(ours.backend.text(rows[-count:]), exported.text(rows[-count:]))


def test_mini_needs_no_library_that_trains_or_exports(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom importlib.util import find_spec\nos.environ.pop('ORT_DISABLE_TELEMETRY', None)\n" + SCORE
    )
    code += f"assert not any(map(find_spec, {NEEDLESS}))\nprint([m for m in ('pyarrow', 'asyncio', 'filelock') if m in sys.modules])"
    done = run_without(NEEDLESS, code, XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    assert (done.stdout, done.stderr) == (a_score() + "[]\n", "")
    assert list(tmp_path.iterdir()) == []  # neither an export nor what ONNX Runtime notes of those who use it


def test_the_score_command_needs_none_either(tmp_path: Path) -> None:
    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    table.write_text(f"url,caption\n{RECORD.url!s},{RECORD.text}\n")
    code = f"from text_image_similarity.cli import main\nmain(['score', {str(table)!r}, {str(out)!r}, '--model', 'mini', '--files-under', '/'])"
    done = run_without(NEEDLESS, code)
    assert done.returncode == 0, done.stderr
    assert float(out.read_text().splitlines()[1].split(",")[2]) == pytest.approx(float(a_score().split()[0]), abs=1e-7)


def test_without_torch_the_cpu_is_used_even_beside_a_gpu() -> None:
    driver = "from text_image_similarity.encoders import placement\nplacement._GPU_FILES = ('/dev/null',)\n"
    done = run_without(NEEDLESS, driver + SCORE)
    assert (done.stdout, done.stderr) == (a_score(), "")


@pytest.mark.parametrize(
    ("missing", "config", "said"),
    [
        (("torch", "onnxruntime"), "", 'running mini without onnxruntime needs torch: pip install ".[onnx]"'),
        (("torch",), ", backend='torch'", 'running mini on torch needs torch: pip install "."'),
        (("torch",), ", preprocess='fast'", "preprocess='fast' needs torch: pip install \".\""),
        (("onnx",), ", precision='int8'", 'exporting mini to ONNX needs onnx: pip install ".[onnx]"'),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_the_command_that_brings_it(
    missing: tuple[str, ...], config: str, said: str, tmp_path: Path
) -> None:
    code = (
        "from text_image_similarity import Config, MissingExtraError, load_encoder\n"
        f"try:\n    load_encoder(Config(model='mini', device='cpu', model_cache={str(tmp_path)!r}{config}))\n"
        "except MissingExtraError as exc:\n    print(exc)"
    )
    done = run_without(missing, code)
    assert done.stdout.startswith(f"{said} in a checkout")
    assert done.stderr == ""


def test_graphs_of_other_weights_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("an export was asked for")

    monkeypatch.setattr(onnx_export, "export", refuse)
    config = Config(model=copy_of_mini(tmp_path / "model"), backend="onnx", model_cache=tmp_path)
    assert load_encoder(config).info.backend == "onnx"
    tokenizer = tmp_path / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ModelError, match="an export was asked for"):
        load_encoder(config)


def test_graphs_beside_a_copy_of_its_weights_are_not_opened(tmp_path: Path) -> None:
    """They could be of anybody and compute anything, and their embeddings would be cached under mini's fingerprint."""
    folder = copy_of_mini(tmp_path / "model")
    (folder / "image.onnx").write_bytes((folder / "text.onnx").read_bytes())
    encoder = load_encoder(Config(model=folder, backend="onnx"))
    (image,) = encoder.encode_image(noise(1))
    np.testing.assert_array_equal(image, load_encoder(Config(model="mini")).encode_image(noise(1))[0])


@pytest.mark.parametrize("broken", ["image.onnx", "the name of a weight"])
def test_damaged_graphs_leave_torch(
    broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of_mini(tmp_path / "model")
    monkeypatch.setattr("text_image_similarity.encoders.onnx_load.mini_folder", lambda: folder)
    if broken == "image.onnx":
        (folder / broken).write_bytes((folder / broken).read_bytes()[:1000])
    else:  # without it the graph lacks a weight, for which nothing else may be taken
        facts = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        facts["initializers"]["image"].popitem()
        (folder / "encoder.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ModelError, match=r"delete its encoder\.json to export it again"):
        load_encoder(Config(model=folder, backend="onnx"))
    assert load_encoder(Config(model=folder, device="cpu")).info.backend == "torch"
    assert "runs on torch" in caplog.text


def test_what_people_rate_and_training_name_the_library_that_is_missing(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("url,caption\n")
    code = (
        "from text_image_similarity import MissingExtraError, cli\nfrom text_image_similarity.metrics import agreement\n"
        "try:\n    agreement([1, 2], [1, 2])\nexcept MissingExtraError as exc:\n    print(exc)\n"
        f"cli.main(['train', {str(pairs)!r}, 'none'])"
    )
    done = run_without(("torch", "scipy"), code)
    assert done.stdout.startswith('agreement with people needs scipy: pip install "."')
    assert 'training needs torch: pip install ".[train]"' in done.stderr
    assert "Traceback" not in done.stderr
