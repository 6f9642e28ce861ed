"""The recipe for Snowflake's model registry, on a stand-in for its library, which needs an environment of its own.

With the library itself, 2.6.0, the model was packed, loaded in another process and asked once by hand.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from tests.support.images import make_png
from tests.support.paths import ROOT
from text_image_similarity import Config, ExportSummary, score_images


class ModelContext:
    """Files by name, as Snowflake's own."""

    def __init__(self, **files: str):
        self.files = files

    def path(self, name: str) -> str:
        return self.files[name]


class CustomModel:
    """Refuses what Snowflake's own refuses: a method for inference that does not name its types."""

    def __init__(self, context: ModelContext):
        self.context = context
        methods = [one for one in vars(type(self)).values() if hasattr(one, "inference")]
        assert methods
        for method in methods:
            assert method.__annotations__ == {"rows": pd.DataFrame, "return": pd.DataFrame}


def inference_api(method: Any) -> Any:
    method.inference = True
    return method


@dataclass
class Registry:
    """Packs what it is given, as far as files are concerned."""

    session: dict[str, Any]

    def log_model(self, model: Any, **options: Any) -> dict[str, Any]:
        code = Path(options["code_paths"][0])
        self.session |= {"model": model, "modules": {path.name for path in code.iterdir()}, **options}
        return self.session


@dataclass
class ModelSignature:
    inputs: list[tuple[str, str]] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    parts: dict[str, dict[str, Any]] = {
        "snowflake": {},
        "snowflake.ml": {},
        "snowflake.ml.model": {},
        "snowflake.ml.model.custom_model": {
            "CustomModel": CustomModel,
            "ModelContext": ModelContext,
            "inference_api": inference_api,
        },
        "snowflake.ml.model.model_signature": {
            "DataType": {"STRING": "STRING", "DOUBLE": "DOUBLE"},
            "FeatureSpec": lambda name, dtype: (name, dtype),
            "ModelSignature": ModelSignature,
        },
        "snowflake.ml.registry": {"Registry": Registry},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        above, _, last = name.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)
    spec = importlib.util.spec_from_file_location("register_model", ROOT / "deploy" / "snowflake" / "register_model.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_a_version_in_snowflakes_registry_gives_our_scores(
    recipe: ModuleType, exported: tuple[Path, ExportSummary], tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(make_png("red"))
    rows = pd.DataFrame({"url": [str(tmp_path / "red.png"), "none.png", None], "caption": ["a red wall", "a", "b"]})
    settings = {"limits": {"allow_local_files": True}, "backend": "onnx"}
    packed = recipe.log_model({}, str(exported[0]), "clip", settings=settings, version_name="V1")
    found = packed["model"].score(rows)
    (expected,) = score_images([make_png("red")], ["a red wall"], Config(model=exported[0]))
    assert found["similarity"][0] == pytest.approx(expected.similarity, abs=1e-7)
    assert found["error"][0] == ""
    assert all(map(math.isnan, found["similarity"][1:]))
    assert [error.partition(":")[0] for error in found["error"][1:]] == ["file_not_found", "invalid_url"]
    assert (packed["model_name"], packed["version_name"]) == ("clip", "V1")
    assert "weights" not in packed["modules"]
    assert {"__init__.py", "pipeline"} <= packed["modules"]
    assert packed["signatures"]["score"].inputs == [("url", "STRING"), ("caption", "STRING")]
    assert packed["signatures"]["score"].outputs == [("similarity", "DOUBLE"), ("error", "STRING")]
    names = {line.partition("==")[0] for line in packed["pip_requirements"]}
    assert "onnxruntime" in names
    assert not {"torch", "transformers", "numpy", "pandas"} & names
