"""The resize of a GPU gives Pillow's bytes: its kernel runs in Triton's interpreter here, which needs no GPU."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

_PROGRAM = """
import numpy as np
import torch
from PIL import Image
from text_image_similarity.encoders.gpu_resize import resize_on_device

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
rng = np.random.default_rng(0)
for before, after, resample in (
    ((61, 40), (23, 17), BICUBIC),
    ((20, 90), (18, 30), BICUBIC),  # rows first
    ((9, 7), (40, 31), BICUBIC),
    ((30, 21), (30, 8), BILINEAR),
    ((31, 20), (12, 20), BILINEAR),
    ((1, 33), (5, 1), BICUBIC),
    ((8, 8), (8, 8), BICUBIC),
):
    pixels = rng.choice(np.array([0, 1, 128, 254, 255], np.uint8), (before[1], before[0], 3))
    expected = np.asarray(Image.fromarray(pixels).resize(after, resample))
    found = resize_on_device(torch.from_numpy(pixels), after, resample).numpy()
    assert np.array_equal(found, expected), (before, after)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="torch brings triton on Linux alone")
def test_the_kernel_gives_pillows_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when the kernel is defined, so in a process of its own
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("equal\n", 0), done.stderr
