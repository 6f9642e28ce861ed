"""One export that the tests of this folder look at; whoever changes it takes a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from text_image_similarity import Config, ExportSummary, export_model


@pytest.fixture(scope="session")
def exported(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportSummary]:
    """The tiny CLIP, exported for ONNX Runtime, and what `export_model` said."""
    out = tmp_path_factory.mktemp("export") / "tiny"
    return out, export_model(Config(model=tiny_clip), out)
