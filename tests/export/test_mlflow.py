from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.images import make_png
from text_image_similarity import Config, ConfigError, ExportSummary, ModelError, score_images
from text_image_similarity.encoders.exported import MANIFEST, manifest_text
from text_image_similarity.export.mlflow import log_model, save_model

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own, of what it imports

Export = tuple[Path, ExportSummary]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.extended
def test_an_mlflow_model_gives_our_scores_and_needs_no_torch(exported: Export, place: Path) -> None:
    import mlflow

    with mlflow.start_run():
        info = log_model(exported[0], "tiny", settings={"score": "cosine"}, registered_model_name="tiny")
    assert info.registered_model_version == 1
    model = mlflow.pyfunc.load_model("models:/tiny/1", model_config={"score": "clip_score"})
    colours = ["red", "green", "blue"]
    (place / "red.png").write_bytes(make_png("red"))
    rows = pd.DataFrame(
        {
            "url": [None, None, None, "red.png"],
            "image": [*map(make_png, colours), None],
            "caption": [*(f"a {colour} wall" for colour in colours), "a red wall"],
        }
    )
    found = model.predict(rows)
    expected = score_images(
        [make_png(colour) for colour in colours],
        [f"a {colour} wall" for colour in colours],
        Config(model=exported[0], score="clip_score"),
    )
    assert found["similarity"].tolist() == [*(result.similarity for result in expected), None]
    assert found["error"].tolist()[:3] == [None] * 3
    assert found["error"][3].startswith("unsupported_scheme: local files are not allowed here")
    requirements = mlflow.pyfunc.get_model_dependencies(info.model_uri)
    names = {line.partition("==")[0] for line in Path(requirements).read_text("utf-8").splitlines()}
    assert {"onnxruntime", "pillow", "tokenizers"} <= names
    assert not {"torch", "torchvision", "transformers"} & names


def test_only_what_can_be_served_is_saved(exported: Export, place: Path) -> None:
    wrong: list[dict[str, Any]] = [{"model": "mini"}, {"io_worker": 2}, {"io_workers": 0}]
    for settings in wrong:
        with pytest.raises(ConfigError, match="model" if "model" in settings else "io_worker"):
            save_model(exported[0], place / "out", settings=settings)
    shutil.copytree(exported[0], place / "damaged")
    (place / "damaged" / "text.onnx").unlink()
    with pytest.raises(ModelError, match=r"text\.onnx"):
        save_model(place / "damaged", place / "out")
    assert not (place / "out").exists()
    shutil.copytree(exported[0], place / "other")
    facts = json.loads((place / "other" / MANIFEST).read_text("utf-8"))
    names = ("image.xml", "image.bin", "text.xml", "text.bin")
    facts = {
        **facts,
        "format": "openvino",
        "files": {**facts["files"], **dict.fromkeys(names, facts["files"]["text.onnx"])},
    }
    (place / "other" / MANIFEST).write_text(manifest_text(facts), "utf-8")
    with pytest.raises(ModelError, match=r"is an export for openvino; export .* for onnx"):
        save_model(place / "other", place / "out")
