from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import text_image_similarity.export.write as room
from tests.support.paths import ROOT
from text_image_similarity import (
    Config,
    ConfigError,
    ExportOptions,
    ExportSummary,
    ModelError,
    Record,
    UsageError,
    check_export,
    export_model,
    load_encoder,
    score_csv,
    score_pairs,
)
from text_image_similarity.cli import main
from text_image_similarity.encoders.drawn import drawn_pairs
from text_image_similarity.encoders.exported import MANIFEST, manifest_text
from text_image_similarity.encoders.graphs import write_towers

Export = tuple[Path, ExportSummary]


def records(folder: Path, count: int = 6) -> list[Record]:
    found = []
    for number, (image, caption) in enumerate(drawn_pairs(count)):
        image.save(path := folder / f"{number}.png")
        found.append(Record(url=str(path), text=caption))
    return found


def test_an_export_gives_the_scores_of_its_source(exported: Export, tiny_clip: Path, tmp_path: Path) -> None:
    out, summary = exported
    pairs = records(tmp_path)
    source = Config(model=tiny_clip, backend="torch", device="cpu")
    before = [result.similarity for result in score_pairs(pairs, source)]
    after = [result.similarity for result in score_pairs(pairs, Config(model=out))]
    assert np.abs(np.subtract(before, after)).max() <= 1e-6
    assert np.ptp(before) > 1e-3
    assert summary.passed
    assert summary.parities[0].pairs == 128


def test_an_export_says_what_it_is(exported: Export, tiny_clip: Path, tmp_path: Path) -> None:
    out, summary = exported
    info = load_encoder(Config(model=out)).info
    assert (info.model, info.backend, info.precision) == (str(out), "onnx", "fp32")
    assert info.export == f"onnx export of {tiny_clip}, {summary.digest[:12]}"
    (tmp_path / "in.csv").write_text(f"url,caption\n{records(tmp_path, 1)[0].url!s},a dog\n", encoding="utf-8")
    scored = score_csv(tmp_path / "in.csv", tmp_path / "out.csv", Config(model=out))
    assert scored.as_dict()["export"] == info.export
    assert info.fingerprint != load_encoder(Config(model=tiny_clip, backend="torch")).info.fingerprint
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"`{tiny_clip}`" in card
    assert "{" + "width" not in card


def test_an_export_is_loaded_without_the_libraries_of_its_source(exported: Export, tmp_path: Path) -> None:
    (pair,) = records(tmp_path, 1)
    code = f"""
import sys
for name in ("torch", "torchvision", "transformers", "onnx", "onnxscript", "open_clip"):
    sys.modules[name] = None  # whoever imports it gets an ImportError
from text_image_similarity import Config, Record, score_pairs
(result,) = score_pairs([Record(url={str(pair.url)!r}, text={pair.text!r})], Config(model={str(exported[0])!r}))
print(result.similarity, result.error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (expected,) = score_pairs([pair], Config(model=exported[0]))
    assert done.stdout == f"{expected.similarity} None\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": "torch"}, "is an export for backend='onnx'"),
        ({"precision": "int8"}, "is an export in fp32"),
        ({"revision": "main"}, "remove it, because .* is a folder"),
    ],
)
def test_settings_that_do_not_suit_an_export_name_its_source(
    exported: Export, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_encoder(replace(Config(model=exported[0]), **given))


def test_any_damage_is_refused_before_a_score(exported: Export, tmp_path: Path) -> None:
    whole = exported[0]
    rng, folder = random.Random(0), tmp_path / "damaged"
    shutil.copytree(whole, folder)
    for turn in range(200):
        name = sorted(path.name for path in whole.iterdir())[turn % len(list(whole.iterdir()))]
        content = bytearray((whole / name).read_bytes())
        kind = rng.randrange(4)
        if kind == 0:
            (folder / name).unlink()
        elif kind == 1:
            (folder / name).write_bytes(content[: rng.randrange(len(content))])
        elif kind == 2:
            (folder / name).write_bytes(content + b"\n")
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_encoder(Config(model=folder))
        assert str(folder) in str(caught.value)
        assert name in str(caught.value) or name == MANIFEST  # of which too little may be left
        shutil.copyfile(whole / name, folder / name)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"{name}.* is not a regular file"):
        load_encoder(Config(model=folder))
    (folder / name).unlink()
    shutil.copyfile(whole / name, folder / name)
    load_encoder(Config(model=folder))  # whole again


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: facts.update(layout=99), "layout 99, but this version reads layout 2"),
        (lambda facts: facts["preprocess"].update(pillow=12), "was exported with Pillow 12"),
        (lambda facts: facts.update(format="coreml"), "which this version cannot run"),
        (lambda facts: facts.update(layout=True), "layout True"),
        (lambda facts: facts.update(source="mini"), "no valid source"),
        (lambda facts: facts.update(embed_dim="x"), "no valid embed_dim"),
        (lambda facts: facts.update(precision="fp64"), "no valid precision"),
        (lambda facts: facts.update(context_length=4097), "no valid context_length"),
        (lambda facts: facts["tokens"].update(context_length=10**9, whole=True), "no valid context_length"),
        (lambda facts: facts["tokens"].update(kind="sentencepiece", context_length=10**9), "no valid context_length"),
        (
            lambda facts: facts["preprocess"].update(mean=[[0.5] * 3] * 3),
            "a mean or a standard deviation of images that",
        ),
        (lambda facts: facts.update(files=[]), "no valid files"),
        (lambda facts: facts.update(files={}), r"no valid hash of 'image\.onnx'"),
        (lambda facts: facts["files"].update({"a": "b"}), "no valid file name 'a'"),
        (
            lambda facts: facts["files"].update({"../tiny/image.onnx": facts["files"]["image.onnx"]}),
            "no valid file name",
        ),
        (lambda facts: facts["files"].update({"/dev/zero": facts["files"]["image.onnx"]}), "no valid file name"),
        (lambda facts: facts.update(preprocess={}), "cannot be opened: KeyError"),
    ],
)
def test_an_export_for_something_else_is_refused(
    exported: Export, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    shutil.copytree(exported[0], folder := tmp_path / "other")
    facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(facts)
    (folder / MANIFEST).write_text(manifest_text(facts), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        load_encoder(Config(model=folder))


def test_a_calibration_beside_an_export_may_change(exported: Export, tmp_path: Path) -> None:
    shutil.copytree(exported[0], folder := tmp_path / "calibrated")
    (folder / "calibration.json").write_text("{}", encoding="utf-8")
    assert load_encoder(Config(model=folder)).info.export == load_encoder(Config(model=exported[0])).info.export


@pytest.mark.extended
def test_an_export_that_strays_leaves_no_folder(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other_towers(source: object, folder: Path, **options: Any) -> None:
        other: Any = load_encoder(Config(model=tiny_clip, backend="torch"))
        for weight in other.backend.text_tower.parameters():
            weight.data += 0.01
        write_towers(other, folder, **options)

    monkeypatch.setattr(room, "write_towers", write_other_towers)
    with pytest.raises(ModelError, match=r"was not exported in fp32.* smallest cosine of text vectors.*--allow-drift"):
        export_model(Config(model=tiny_clip), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    summary = export_model(Config(model=tiny_clip), tmp_path / "out", ExportOptions(allow_drift=True))
    assert not summary.passed
    assert str(load_encoder(Config(model=tmp_path / "out")).info.export).endswith(", drift allowed")
    assert not check_export(tmp_path / "out")[0].passed


def test_what_is_there_stays_unless_it_is_an_export_to_replace(
    exported: Export, tiny_clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="already exists; name a new folder"):
        export_model(Config(model=tiny_clip), tmp_path / "notes", ExportOptions(force=True))
    with pytest.raises(UsageError, match="--force"):
        export_model(Config(model=tiny_clip), exported[0])
    with pytest.raises(ConfigError, match=f"is already an export; export its source, {tiny_clip}"):
        export_model(Config(model=exported[0]), tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_table_of_the_callers_own_is_compared_too(
    exported: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records(tmp_path)
    rows = [
        "url,caption",
        *(f"{number}.png,a dog number {number}" for number in range(5)),
        "5.png,",
        "missing.png,a cat",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows), "utf-8")
    with pytest.raises(SystemExit) as done:
        main(["export", str(exported[0]), "--check-only", "--check-data", str(tmp_path / "pairs.csv")])
    assert done.value.code == 0
    drawn, own = capsys.readouterr().out.splitlines()[1:]
    assert drawn.startswith("128 of generated pairs")
    assert drawn.endswith("passed")
    assert own.startswith(f"5 of {tmp_path / 'pairs.csv'}")
    assert own.endswith("passed")


def test_the_drawn_pairs_are_many_and_always_the_same() -> None:
    first, again = list(drawn_pairs(40)), list(drawn_pairs(40))
    assert len({caption for _, caption in first}) == 40
    assert {image.mode for image, _ in first} == {"RGB"}
    assert len({image.size for image, _ in first}) == 6
    assert [(a.tobytes(), b) for a, b in first] == [(a.tobytes(), b) for a, b in again]
    assert isinstance(first[0][0], Image.Image)
