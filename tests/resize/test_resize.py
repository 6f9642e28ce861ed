"""Every way to resize gives Pillow's bytes, and code that does not is never used."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.resize.reference import resized_by
from tests.support.clock import HANG_S
from text_image_similarity.decode import to_rgb
from text_image_similarity.preprocess import Preprocess
from text_image_similarity.resize import Pixels, Region, passes_of, resize, resized
from text_image_similarity.resize.tables import FILTERS

# More of them: RESIZES=5000 python -m pytest tests/resize/test_resize.py
RESIZES = int(os.environ.get("RESIZES", "300"))
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16", "F")
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
PATCHES = Preprocess(size=224, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3, patches=(16, 64))


class Trial(NamedTuple):
    image: Image.Image
    size: tuple[int, int]
    resample: Image.Resampling
    part: Region


def trials(seed: int, most: int = 400) -> Iterator[Trial]:
    """Yield images of random sizes, modes and contents, with sizes to bring them to."""
    rng = np.random.default_rng(seed)
    for number in range(RESIZES):
        width, height, new_width, new_height = (int(side) for side in np.exp(rng.uniform(0, np.log(most), 4)))
        match number % 6:
            case 0:  # around the line where the order of the passes changes
                new_height = min(most, max(1, height - 2 * (width - new_width) + int(rng.integers(-1, 3))))
            case 1:
                new_width = width
            case 2:
                new_height = height
            case 3:  # as models want them
                new_width, new_height = (64, max(64, 64 * height // width))
                new_height = min(new_height, most)
        image = picture(rng, MODES[number % len(MODES)], width, height)
        left, top = int(rng.integers(new_width)), int(rng.integers(new_height))
        part = Region(left, top, int(rng.integers(1, new_width - left + 1)), int(rng.integers(1, new_height - top + 1)))
        whole = Region(0, 0, new_width, new_height)
        yield Trial(image, (new_width, new_height), list(FILTERS)[number % 2], whole if number % 3 else part)


def picture(rng: np.random.Generator, mode: str, width: int, height: int) -> Image.Image:
    values: Pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    match rng.integers(3):
        case 0:  # as far from each other as they can be
            values = np.where(values & 128, 255, 0).astype(np.uint8)
        case 1:  # smooth, as in a photo
            values = (values // 16 + np.linspace(0, 239, width)[:, None]).astype(np.uint8)
    if mode in ("I;16", "F"):
        grey = values[:, :, 0].astype(np.uint16 if mode == "I;16" else np.float32)
        return to_rgb(Image.fromarray(grey))
    return to_rgb(Image.fromarray(values).convert(mode))


def by_pillow(trial: Trial) -> Pixels:
    left, top, width, height = trial.part
    return np.asarray(trial.image.resize(trial.size, trial.resample))[top : top + height, left : left + width]


@pytest.fixture(scope="module")
def compiled() -> resize.Resizer:
    pytest.importorskip("numba", reason="the extra fast-cpu is not installed")
    found = resize.load_compiled()
    assert found is not None
    return found


def test_the_tables_give_pillows_bytes() -> None:
    for trial in trials(seed=1, most=120):
        passes = passes_of(trial.image.size, *trial[1:])
        found = resized_by(passes, np.asarray(trial.image)) if passes else by_pillow(trial)
        np.testing.assert_array_equal(found, by_pillow(trial), str((trial.image.size, *trial[1:])))


def test_compiled_code_gives_pillows_bytes(compiled: resize.Resizer) -> None:
    for trial in trials(seed=2):
        if trial.image.size != trial.size:
            np.testing.assert_array_equal(compiled(*trial), by_pillow(trial), str((trial.image.size, *trial[1:])))


@pytest.mark.parametrize("size", [(2600, 1800), (1500, 3100), (16, 9000)])
def test_images_that_pillow_keeps_in_pieces(compiled: resize.Resizer, size: tuple[int, int]) -> None:
    image = picture(np.random.default_rng(3), "RGB", *size)
    trial = Trial(image, (224, 224), BICUBIC, Region(0, 20, 200, 100))
    np.testing.assert_array_equal(compiled(*trial), by_pillow(trial))


def test_an_image_that_is_not_loaded_yet(compiled: resize.Resizer) -> None:
    file = io.BytesIO()
    picture(np.random.default_rng(4), "RGB", 90, 60).save(file, "PNG")
    image = Image.open(file)
    whole = Region(0, 0, 33, 22)
    assert compiled(image, (33, 22), BICUBIC, whole).tobytes() == image.resize((33, 22), BICUBIC).tobytes()


@pytest.mark.parametrize("preprocess", [
    Preprocess(size=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
    Preprocess(size=36, crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, resample=BILINEAR),
    Preprocess(size=(32, 32), crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, fit="inside", fill=9),
    Preprocess(size=(32, 32), crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, fit="cover"),
    Preprocess(size=(32, 32), crop=None, mean=(0.5,) * 3, std=(0.5,) * 3),
    PATCHES,
])  # fmt: skip
def test_a_model_sees_the_same_pixels(
    compiled: resize.Resizer, preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    images = [picture(rng, "RGB", *size) for size in ((80, 60), (60, 80), (32, 32), (30, 200), (5, 5), (32, 90))]
    expected = [preprocess.pixels(image) for image in images]
    monkeypatch.setattr(resize, "_COMPILED", Ready(compiled))
    for image, pixels in zip(images, expected, strict=True):
        np.testing.assert_array_equal(preprocess.pixels(image), pixels)


class Ready(resize._Compiled):
    def __init__(self, resizer: resize.Resizer | None) -> None:
        super().__init__()
        self._tried, self._resizer = True, resizer


def marked(image: Image.Image, size: tuple[int, int], resample: Image.Resampling, part: Region) -> Pixels:
    """A resizer whose results can be told from Pillow's."""
    return np.full((part.height, part.width, 3), 77, np.uint8)


def test_what_compiled_code_does_not_know_stays_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_COMPILED", Ready(marked))
    image = Image.new("RGB", (20, 20))
    assert resized(image, (10, 10), BICUBIC).mean() == 77
    assert resized(image, (10, 10), Image.Resampling.LANCZOS).mean() == 0
    assert resized(image, (20, 20), BICUBIC).mean() == 0
    assert resized(image.convert("L"), (10, 10), BICUBIC).mean() == 0


def test_the_compiler_is_loaded_once_and_not_for_a_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load() -> resize.Resizer:
        loads.append("once")
        return marked

    monkeypatch.setattr(resize, "_LIBRARIES", ())
    monkeypatch.setattr(resize, "_COMPILED", resize._Compiled())
    monkeypatch.setattr(resize, "load_compiled", load)
    image = Image.new("RGB", (20, 20))
    seen = [int(resized(image, (10, 10), BICUBIC).max()) for _ in range(resize._FEW + 3)]
    assert seen == [0] * resize._FEW + [77] * 3
    assert loads == ["once"]


def test_other_threads_do_not_wait_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = Event(), Event()

    def load() -> resize.Resizer:
        begun.set()
        assert go_on.wait(HANG_S)
        return marked

    monkeypatch.setattr(resize, "_FEW", 0)
    monkeypatch.setattr(resize, "_LIBRARIES", ())
    monkeypatch.setattr(resize, "_COMPILED", resize._Compiled())
    monkeypatch.setattr(resize, "load_compiled", load)
    image, first = Image.new("RGB", (20, 20)), []
    thread = Thread(target=lambda: first.append(resized(image, (10, 10), BICUBIC).max()))
    thread.start()
    assert begun.wait(HANG_S)
    assert resized(image, (10, 10), BICUBIC).max() == 0
    go_on.set()
    thread.join(HANG_S)
    assert first == [77]
    assert resized(image, (10, 10), BICUBIC).max() == 77


def test_without_the_extra_pillow_does_it_silently(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resize, "_FEW", 0)
    monkeypatch.setattr(resize, "_LIBRARIES", ("numba_that_nobody_has",))
    monkeypatch.setattr(resize, "_COMPILED", resize._Compiled())
    monkeypatch.setattr(resize, "load_compiled", lambda: pytest.fail("it is not installed"))
    assert resized(Image.new("RGB", (20, 20)), (10, 10), BICUBIC).max() == 0
    assert not caplog.records


@pytest.mark.parametrize("fault", ["value", "raises"])
def test_code_that_gives_other_bytes_is_not_used(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(image: Image.Image, size: tuple[int, int], resample: Image.Resampling, part: Region) -> Pixels:
        if fault == "raises":
            raise TypeError("no matching definition")
        pixels = resize._by_pillow(image, size, resample, part).copy()
        pixels[-1, -1, 2] ^= 1
        return pixels

    monkeypatch.setattr(resize, "_by_compiled_code", lambda: faulty)
    with caplog.at_level(logging.WARNING):
        assert resize.load_compiled() is None
    assert "resized by Pillow" in caplog.text


@pytest.mark.skipif(find_spec("numba") is None, reason="the extra fast-cpu is not installed")
def test_code_that_is_not_compiled_is_not_used() -> None:
    code = "from text_image_similarity.resize import resize\nprint(resize.load_compiled())"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert "NUMBA_DISABLE_JIT" in done.stderr


@pytest.mark.skipif(find_spec("numba") is None, reason="the extra fast-cpu is not installed")
def test_numba_takes_no_settings_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache_dir there would be a folder of pickles."""
    monkeypatch.chdir(tmp_path)
    assert resize.load_compiled() is not None
    (tmp_path / ".numba_config.yaml").write_text("cache_dir: photos\n")
    assert resize.load_compiled() is None
    assert ".numba_config.yaml in the working folder is not trusted" in caplog.text


@pytest.mark.parametrize("fault", [RuntimeError("no locator available"), OSError("read-only file system")])
def test_code_is_compiled_where_it_cannot_be_kept(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba", reason="the extra fast-cpu is not installed")
    from text_image_similarity.resize import compiled

    def njit(signature: str, *, nogil: bool, cache: bool = False) -> Callable[[str], str]:
        if cache:
            raise fault
        return lambda function: f"{signature} {function}"

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled._compiled("compiled")("function") == "compiled function"


def test_importing_loads_no_compiler() -> None:
    code = "import sys, text_image_similarity.preprocess\nprint({'numba', 'pyarrow', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
