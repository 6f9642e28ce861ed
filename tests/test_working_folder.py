"""The command runs no code from the working folder, nor do the libraries and processes that it starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from text_image_similarity.errors import UsageError
from text_image_similarity.ray_data import RayEngine
from text_image_similarity.system import refuse_planted_driver
from text_image_similarity.training.curves import draw_curves

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the search path is that of a Linux wheel")
DOORS = """
import sys
from pathlib import Path
from PIL import Image
import text_image_similarity as own
from text_image_similarity.encoders import placement
from text_image_similarity.preprocess import Preprocess, _interpolated

placement._has_no_gpu_file = lambda: False
for door in (
    lambda: own.load_encoder(own.Config(model="mini", backend="torch", device="cpu")),
    lambda: own.load_encoder(own.Config(model="mini", device="auto")),
    lambda: own.load_encoder(own.Config(model="mini", device="cuda")),
    lambda: own.load_encoder(own.Config(model="mini", device="cpu", preprocess="fast")),
    lambda: _interpolated(Image.new("RGB", (4, 4)), (2, 2), Image.Resampling.BICUBIC),
    lambda: own.export_model(own.Config(model="mini"), "export"),
    lambda: own.train,
):
    try:
        door()
    except Exception as exc:
        print(type(exc).__name__, exc)
print("torch" in sys.modules)
"""

STARTED = """
import sys
sys.path.pop(0)  # for a console script, this is not the working folder
from multiprocessing import resource_tracker
from text_image_similarity.cli import main
try:
    main(["score", "missing.csv", "out.csv"])
except SystemExit:
    resource_tracker.ensure_running()  # as the lock of a progress bar does on macOS, and with Python 3.14
    resource_tracker._resource_tracker._stop()
"""
SPARK = """
import sys
from pyspark import java_gateway
from text_image_similarity import ConfigError
from text_image_similarity.spark.session import open_session

def start(command, *, env, **_):
    print(command[0], env["PYTHONSAFEPATH"], sep="\\n")
    raise OSError("that is enough")

java_gateway.Popen = start
try:
    open_session({})
except ConfigError:
    pass
"""


@LINUX
def test_no_driver_from_the_working_folder_is_loaded_with_torch(tmp_path: Path) -> None:
    """cuSPARSELt's search path has an empty entry, which means the working folder."""
    (tmp_path / "libcuda.so.1").touch()
    # The package lies elsewhere; -P as for a console script, which does not look for modules here.
    done = subprocess.run([sys.executable, "-P", "-c", DOORS], cwd=tmp_path, capture_output=True, text=True, check=True)
    *refusals, loaded = done.stdout.splitlines()
    assert len(refusals) == 7
    for refusal in refusals:
        assert re.match(
            "UsageError libcuda.so.1 in the working folder would run as code .*; remove it, or run", refusal
        )
    assert loaded == "False"


@LINUX
def test_every_place_is_refused_where_the_dynamic_linker_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    command = [sys.executable, "-P", "-c", "import torch"]
    done = subprocess.run(command, env={**os.environ, "LD_DEBUG": "libs"}, capture_output=True, text=True, check=True)
    tried = set(re.findall(r"trying file=([^/\n].*)", done.stderr))
    for file in {
        "libcuda.so.1",
        "glibc-hwcaps/x86-64-v4/libcuda.so.1",
        "tls/haswell/avx512_1/x86_64/libcuda.so.1",
        *tried,
    }:
        refuse_planted_driver()
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).symlink_to("elsewhere")
        with pytest.raises(UsageError, match=re.escape(file)):
            refuse_planted_driver()
        Path(file).unlink()


def test_processes_that_libraries_start_find_no_modules_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "multiprocessing").mkdir()
    (tmp_path / "multiprocessing" / "__init__.py").write_text("open('ran', 'w')")
    subprocess.run([sys.executable, "-c", STARTED], cwd=tmp_path, capture_output=True, check=True)
    assert not (tmp_path / "ran").exists()


def test_matplotlib_takes_no_settings_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Older versions evaluate a setting's text as Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    (tmp_path / "matplotlibrc").touch()
    assert draw_curves([{"epoch": 1, "loss": 1.0}], tmp_path) == []
    assert "matplotlibrc in the working folder is not trusted" in caplog.text
    assert "matplotlib" not in sys.modules


def test_spark_starts_from_its_package_and_its_workers_look_only_there(tmp_path: Path) -> None:
    pyspark = pytest.importorskip("pyspark", reason="the extra spark is not installed")
    for name in ("photos", "bin", "jars"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "spark-submit").touch()
    environment = {name: value for name, value in os.environ.items() if name not in ("SPARK_HOME", "PYTHONSAFEPATH")}
    command = [sys.executable, "-P", "-c", SPARK]
    here = tmp_path / "photos"
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    home, safe = done.stdout.splitlines()
    assert Path(home).resolve() == Path(pyspark.__path__[0], "bin", "spark-submit").resolve()
    assert safe == "1"


@pytest.mark.parametrize("address", [{}, {"address": ""}, {"address": "local"}])
def test_a_ray_that_is_started_joins_nothing_and_its_workers_do_not_look_here(
    address: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would join what any user of this machine wrote into a file, and put this folder first for its workers."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = _arguments_of_ray(monkeypatch, address)
    assert given["address"] == "local"
    assert given["folder"] == []
    assert given["runtime_env"]["working_dir"] != str(Path.cwd())


def test_a_ray_that_is_joined_is_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _arguments_of_ray(monkeypatch, {"address": "auto"}).get("address") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert "address" not in _arguments_of_ray(monkeypatch, {})


def _arguments_of_ray(monkeypatch: pytest.MonkeyPatch, conf: dict[str, str]) -> dict[str, Any]:
    """Return the arguments with which the engine starts Ray, and what is in its folder."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    given: dict[str, Any] = {}

    def init(address: str | None = None, **arguments: Any) -> None:
        given.update(arguments if address is None else {"address": address, **arguments})
        if "runtime_env" in arguments:
            given["folder"] = [*Path(arguments["runtime_env"]["working_dir"]).iterdir()]

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with RayEngine(conf):
        return given
