"""The command runs no code from the working folder, nor do the libraries and processes that it starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from text_image_similarity.errors import UsageError
from text_image_similarity.system import refuse_planted_driver

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


@LINUX
def test_no_driver_from_the_working_folder_is_loaded_with_torch(tmp_path: Path) -> None:
    """cuSPARSELt's search path has an empty entry, which means the working folder."""
    (tmp_path / "libcuda.so.1").touch()
    # The package lies elsewhere; -P as for a console script, which does not look for modules here.
    done = subprocess.run([sys.executable, "-P", "-c", DOORS], cwd=tmp_path, capture_output=True, text=True, check=True)
    *refusals, loaded = done.stdout.splitlines()
    assert len(refusals) == 7
    for refusal in refusals:
        assert re.match("UsageError libcuda.so.1 in the working folder would run as code .*; remove it, or run", refusal)
    assert loaded == "False"


@LINUX
def test_every_place_is_refused_where_the_dynamic_linker_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    command = [sys.executable, "-P", "-c", "import torch"]
    done = subprocess.run(command, env={**os.environ, "LD_DEBUG": "libs"}, capture_output=True, text=True, check=True)
    tried = set(re.findall(r"trying file=([^/\n].*)", done.stderr))
    for file in {"libcuda.so.1", "glibc-hwcaps/x86-64-v4/libcuda.so.1", "tls/haswell/avx512_1/x86_64/libcuda.so.1", *tried}:
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
