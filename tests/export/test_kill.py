"""SIGKILL in the middle of an export: the folder is whole or absent, and the next export leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.clock import wait_for
from tests.support.paths import ROOT
from text_image_similarity import Config, export_model, load_encoder

KILLS = int(os.environ.get("KILLS", "1"))


def start(model: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "text_image_similarity", "export", str(model), str(out), "--quiet"]
    return subprocess.Popen(command, cwd=ROOT)


@pytest.mark.extended
def test_a_killed_export_leaves_a_whole_folder_or_none(tiny_clip: Path, tmp_path: Path) -> None:
    rng, out = random.Random(0), tmp_path / "out"
    for turn in range(KILLS):
        with start(tiny_clip, out) as running:
            if turn == 0:
                wait_for(lambda: list(tmp_path.glob(".text-image-similarity-*/*/whole/image.onnx")))
            else:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(rng.uniform(1, 12))
            running.send_signal(signal.SIGKILL)
        if turn == 0:
            assert not out.exists()
            assert len(list(tmp_path.iterdir())) == 1, "what it was writing"
        if out.exists():
            load_encoder(Config(model=out))
            out.rename(tmp_path / f"whole-{turn}")
    for left in tmp_path.glob(".text-image-similarity-*"):
        os.utime(left, (0, 0))  # so that it counts as abandoned
    export_model(Config(model=tiny_clip), out)
    load_encoder(Config(model=out))
    assert not list(tmp_path.glob(".text-image-similarity-*"))
