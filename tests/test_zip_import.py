"""The package imported from a zip: what it reads of its own files is found there, or copied out once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.packages import zip_package
from text_image_similarity import Config, load_encoder
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.fingerprint import fingerprint
from text_image_similarity.encoders.zipped import on_disk

PROGRAM = """
import text_image_similarity
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.fingerprint import fingerprint
from text_image_similarity.report.page import page
assert ".zip" in text_image_similarity.__file__
print(model_folder("mini"), fingerprint(model_folder("mini")))
"""

OTHER = """
from text_image_similarity import Config, load_encoder
from text_image_similarity.spark import worker
try:
    load_encoder(Config(model="/no/model"))
except Exception as exc:
    print(exc)
"""

LOADED = """
import sys
from text_image_similarity import Config, load_encoder
encoder = load_encoder(Config(model="mini", device="cpu"))
print(encoder.info.backend, encoder.encode_text(["a dog"]).tolist(), "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zip_package(tmp_path_factory.mktemp("zip"))


def start(package: Path, cache: Path, program: str = PROGRAM) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "XDG_CACHE_HOME": str(cache),
        "TMPDIR": str(package.parent),
    }
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=package.parent, env=environment, stdout=subprocess.PIPE, text=True
    )


def test_mini_is_copied_out_once_by_processes_that_start_at_once(package: Path, tmp_path: Path) -> None:
    running = [start(package, tmp_path) for _ in range(3)]
    printed = {process.communicate(timeout=100)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    (line,) = printed
    folder, _, weights = line.partition(" ")
    assert weights == fingerprint(model_folder("mini"))
    assert Path(folder).is_relative_to(tmp_path)
    assert [path.name for path in Path(folder).parent.iterdir()] == [Path(folder).name]  # nothing is left beside it


def test_without_a_cache_folder_mini_is_in_a_folder_for_the_process(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = start(package, tmp_path / "file")
    folder, _, weights = process.communicate(timeout=100)[0].strip().partition(" ")
    assert process.returncode == 0
    assert weights == fingerprint(model_folder("mini"))
    assert Path(folder).is_relative_to(package.parent)
    assert not Path(folder).exists(), "it is deleted at the end"
    assert not list(package.parent.glob(".text-image-similarity-*"))


FORKED = """
import os, sys
from text_image_similarity.encoders import model_folder
folder = model_folder("mini")
if not (child := os.fork()):
    sys.exit()
os.waitpid(child, 0)
print(folder.is_dir(), folder)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_folder_for_the_process_is_kept_at_the_end_of_a_forked_one(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept, _, folder = start(package, tmp_path / "file", FORKED).communicate(timeout=100)[0].strip().partition(" ")
    assert kept == "True"
    assert not Path(folder).exists()


@pytest.mark.skipif(os.name == "nt", reason="on Windows, a link's owner is not looked up")
def test_a_cache_folder_behind_a_link_of_another_user_is_not_used(package: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "cache").symlink_to(tmp_path / "there")
    (tmp_path / "shared").chmod(0o1777)
    folder, _, _ = start(package, tmp_path / "shared" / "cache").communicate(timeout=100)[0].strip().partition(" ")
    assert Path(folder).is_relative_to(package.parent)


def test_what_a_killed_process_was_copying_is_deleted_later(package: Path, tmp_path: Path) -> None:
    packaged = tmp_path / "text-image-similarity" / "packaged"
    slow = PROGRAM.replace(
        "import text", "import os, zipfile\nzipfile.ZipFile.extractall = lambda *_: os._exit(9)\nimport text", 1
    )
    killed = start(package, tmp_path, slow)
    killed.communicate(timeout=100)
    assert killed.returncode == 9
    (abandoned,) = packaged.iterdir()
    assert abandoned.stat().st_mode & 0o77 == 0
    os.utime(abandoned, (0, 0))
    start(package, tmp_path).communicate(timeout=100)
    assert [path.is_dir() and path != abandoned for path in packaged.iterdir()] == [True]


def test_mini_in_a_zip_needs_no_export_either(package: Path, tmp_path: Path) -> None:
    process = start(package, tmp_path, LOADED)
    printed, _ = process.communicate(timeout=100)
    here = load_encoder(Config(model="mini", device="cpu")).encode_text(["a dog"]).tolist()
    assert printed.strip() == f"onnx {here} False"


@pytest.mark.slow
def test_mini_stays_in_the_zip_if_another_model_is_used(package: Path, tmp_path: Path) -> None:
    printed, _ = start(package, tmp_path, OTHER).communicate(timeout=100)
    assert "/no/model does not exist" in printed
    assert not list(tmp_path.iterdir())


def test_a_folder_is_where_it_is(tmp_path: Path) -> None:
    assert on_disk(tmp_path / "weights") == tmp_path / "weights"
