"""`mlflow models serve` on an export: the code that the model carries answers, with our numbers."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.images import make_png
from tests.support.processes import free_port, running
from text_image_similarity import Config, ExportSummary, score_images
from text_image_similarity.export.mlflow import save_model


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of what it imports
@pytest.mark.server
@pytest.mark.extended
def test_mlflows_server_answers_with_our_numbers(
    exported: tuple[Path, ExportSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    save_model(exported[0], model := tmp_path / "model")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # so that the server finds the model's own copy of the code
    # MLflow starts `uvicorn` by its bare name, as in an environment that is active.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with running(command, port, tmp_path / "server.log", probe="/ping") as server:
        rows = [
            {"image": base64.b64encode(make_png("red")).decode(), "caption": "a red wall"},
            {"image": "this is not base64", "caption": "a red wall"},
            {"url": "missing.png", "caption": "a red wall"},
        ]
        answer = httpx.post(server.url("/invocations"), json={"dataframe_records": rows}, timeout=60)
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    (expected,) = score_images([make_png("red")], ["a red wall"], Config(model=exported[0]))
    assert [row["similarity"] for row in found] == [pytest.approx(expected.similarity, abs=1e-7), None, None]
    assert found[0]["error"] is None
    assert [str(row["error"]).partition(":")[0] for row in found[1:]] == ["not_an_image", "unsupported_scheme"]
