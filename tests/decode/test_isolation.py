"""A decoder in a process of its own: the same pixels, and a crash, a hang or a glutton costs one row."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.clock import HANG_S
from tests.support.images import SAMPLES, gradient, inline, make_png, saved
from tests.support.paths import ROOT
from tests.support.puppets import COMMAND, let_hangs_end, puppets
from tests.support.records import CONFIG, codes
from text_image_similarity import Config, ConfigError, Limits, Record, RowError, score_images, score_pairs
from text_image_similarity.decode import decode
from text_image_similarity.decode import isolation as isolation_module
from text_image_similarity.decode.deadlines import Deadlines
from text_image_similarity.decode.isolation import IsolatedDecoder, worker_command
from text_image_similarity.encoders.testing import ColourEncoder

LIMITS = Limits(decode_s=20.0)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited on Linux alone")


@pytest.fixture(scope="module")
def real() -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder(LIMITS, workers=2)
    yield decoder
    decoder.close()


def children() -> set[int]:
    """Return the processes that this one has started, zombies too."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for path in listed for pid in path.read_text().split()}


def test_pixels_and_errors_are_those_of_this_process(real: IsolatedDecoder) -> None:
    for sample in [*SAMPLES, saved(Image.new("CMYK", (9, 9), "red"), "JPEG"), saved(Image.new("I;16", (3, 5)), "PNG")]:
        expected, found = decode(sample, LIMITS), real.decode(sample)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    large = saved(gradient(1400, 1400), "JPEG")
    reduced = real.decode(large, shorter_side=336)
    assert reduced.size == (350, 350)
    np.testing.assert_array_equal(np.asarray(reduced), np.asarray(decode(large, LIMITS, shorter_side=336)))
    for broken in (b"", b"<html>", b"%PDF", SAMPLES[1][:60], SAMPLES[3][:-9], b"GIF89a" + b"\xff" * 50 + b";"):
        with pytest.raises(RowError) as here:
            decode(broken, LIMITS)
        with pytest.raises(RowError) as there:
            real.decode(broken)
        assert str(there.value) == str(here.value)


def test_threads_share_the_workers(real: IsolatedDecoder) -> None:
    colours = [(i, 255 - i, i // 2) for i in range(40)]
    files = [make_png(colour, (i % 7 + 1, 3)) for i, colour in enumerate(colours)]
    with ThreadPoolExecutor(8) as pool:
        for colour, picture in zip(colours, pool.map(real.decode, files), strict=True):
            assert picture.getpixel((0, 0)) == colour


def test_the_caps_hold_in_the_worker() -> None:
    decoder = IsolatedDecoder(replace(LIMITS, max_pixels=1000), workers=1)
    with pytest.raises(RowError, match="too_many_pixels"):
        decoder.decode(make_png(size=(40, 40)))
    assert decoder.decode(make_png(size=(25, 40))).size == (25, 40)
    decoder.close()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (b"crash", r"decoder_crash: the decoder process was killed by signal 11 \(Segmentation fault\)"),
        (b"exit", "decoder_crash: the decoder process ended with exit code 3"),
        (b"noise", "decoder_crash: the decoder process sent an invalid response"),
        (b"claim", "decoder_crash: the decoder process sent an invalid response"),
        (b"endless", "decoder_crash: the decoder process sent an invalid response"),
        (b"word", "decoder_crash: the decoder process sent an invalid response"),
    ],
)
def test_a_worker_that_fails_costs_one_picture(does: bytes, said: str) -> None:
    decoder = puppets(LIMITS)
    try:
        for _ in range(2):
            assert decoder.decode(b"fine").getpixel((0, 0)) == (255, 255, 255)
            with pytest.raises(RowError, match=said):
                decoder.decode(does)
        assert decoder.decode(b"fine").size == (1, 1)
    finally:
        decoder.close()


@pytest.mark.parametrize("does", [b"hang", b"half", b"deaf"])
def test_a_worker_that_takes_too_long_is_replaced(does: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    let_hangs_end(monkeypatch, does)
    decoder = puppets(LIMITS)
    try:
        with pytest.raises(RowError, match=r"decoder_crash: the decoder (took longer than 60 s|process ended)"):
            decoder.decode(does)
        assert decoder.decode(b"fine").size == (1, 1)
    finally:
        decoder.close()


def test_a_worker_has_three_times_the_processor_time_that_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    begin = Deadlines.begin

    def note(deadlines: Deadlines, who: Hashable, seconds: float, late: Callable[[], None]) -> None:
        given.append(seconds)
        begin(deadlines, who, seconds, late)

    decoder = puppets(LIMITS)
    monkeypatch.setattr(Deadlines, "begin", note)
    decoder.decode(b"fine")
    decoder.close()
    assert given == [3 * LIMITS.decode_s]


@linux
def test_what_a_large_picture_took_of_the_shared_memory_is_given_back() -> None:
    def shared() -> int:
        smaps = Path("/proc/self/smaps").read_text()
        found = re.findall(r"memfd:text_image_similarity.*\n(?:.*\n)*?Rss: +(\d+) kB", smaps)
        assert found
        return sum(map(int, found)) << 10

    decoder = IsolatedDecoder(LIMITS, workers=1)
    assert decoder.decode(make_png(size=(3000, 2000))).size == (3000, 2000)
    assert shared() < 12 << 20  # of 18 MB of pixels; those of other tests' small pictures count too
    decoder.close()


def test_a_file_larger_than_the_shared_memory_fails_alone() -> None:
    decoder = puppets(replace(LIMITS, max_bytes=1000, max_pixels=1000))
    with pytest.raises(RowError, match="too_many_bytes: more than 1,000 bytes"):
        decoder.decode(bytes(1 << 20))
    assert decoder.decode(b"fine").size == (1, 1)
    decoder.close()


def test_an_answer_that_was_not_read_goes_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def read(self, size: int) -> bytes:
            raise KeyboardInterrupt

        def close(self) -> None:
            pipe.close()

    decoder = puppets(LIMITS)
    process = decoder._idle[0]._process
    assert process.stdout is not None
    pipe = process.stdout
    monkeypatch.setattr(process, "stdout", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        decoder.decode(b"fine")
    assert process.poll() is not None
    assert decoder.decode(b"fine").size == (1, 1)
    decoder.close()


@linux
def test_a_picture_that_needs_too_much_memory_costs_one_row() -> None:
    decoder = IsolatedDecoder(replace(LIMITS, decode_memory=48 << 20), workers=1)
    with pytest.raises(RowError, match="decoder_crash: PNG: there is not enough memory"):
        decoder.decode(saved(Image.new("RGB", (5000, 5000)), "PNG"))
    assert decoder.decode(make_png()).size == (16, 16)
    decoder.close()


@linux
def test_workers_are_bound_and_cannot_be_unbound(real: IsolatedDecoder) -> None:
    real.decode(make_png())
    limited = [
        Path(f"/proc/{pid}/limits").read_text()
        for pid in children()
        if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert limited
    for text in limited:
        rows = {line[:26].strip(): line[26:].split() for line in text.splitlines()}
        assert rows["Max core file size"][:2] == ["0", "0"]
        soft, hard = rows["Max address space"][:2]
        assert soft == hard
        assert int(hard) < (1 << 30) + (4 << 30)
        assert int(rows["Max cpu time"][0]) < 60


@linux
def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    let_hangs_end(monkeypatch, b"hang")
    before, pipes = children(), len(list(Path("/proc/self/fd").iterdir()))
    decoder = puppets(LIMITS, workers=2)
    assert len(children() - before) == 1
    for does in (b"fine", b"crash", b"fine", b"hang", b"noise", b"fine"):
        with contextlib.suppress(RowError):
            decoder.decode(does)
    decoder.close()
    assert children() == before
    assert len(list(Path("/proc/self/fd").iterdir())) == pipes


def test_closing_ends_a_worker_that_is_busy() -> None:
    decoder = puppets(Limits(decode_s=3600.0))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(decoder.decode, b"hang")
        while decoder._idle:  # until the thread has taken the worker
            threading.Event().wait(0.01)
        decoder.close()
        with pytest.raises(RowError, match="decoder_crash"):
            asked.result(HANG_S)
    with pytest.raises(RowError, match="closed"):
        decoder.decode(b"fine")


@linux
def test_workers_end_with_their_parent() -> None:
    code = (
        "import os, signal\nfrom text_image_similarity import Limits\n"
        "from text_image_similarity.decode.isolation import IsolatedDecoder\n"
        "decoder = IsolatedDecoder(Limits(), workers=1)\n"
        "print(next(iter(decoder._running))._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    worker = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + HANG_S
    while worker.exists() and "\nState:\tZ" not in (worker / "status").read_text():
        assert time.monotonic() < deadline, "the worker continues without its parent"
        threading.Event().wait(0.01)


def test_a_worker_finds_the_package_wherever_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "library").symlink_to(ROOT)
    code = (
        "import sys\nsys.path.insert(0, 'library')\n"
        "from text_image_similarity import Limits\nfrom text_image_similarity.decode.isolation import IsolatedDecoder\n"
        "sys.path.remove('library')\ndecoder = IsolatedDecoder(Limits(), workers=1)\n"
        f"print(decoder.decode({make_png()!r}).getpixel((0, 0)))\ndecoder.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout, done.stderr) == ("(255, 0, 0)\n", "")


def test_a_worker_loads_pillow_and_numpy_alone() -> None:
    settings = worker_command(LIMITS)
    program = settings[4].replace("serve(settings, *sys.argv[2:])", "print(sorted(sys.modules))")
    done = subprocess.run([*settings[:4], program, settings[5]], capture_output=True, text=True, check=True)
    for name in ("torch", "pandas", "httpx", "transformers", "multiprocessing"):
        assert f"'{name}'" not in done.stdout
    assert "'numpy'" in done.stdout


def test_a_plug_in_for_heif_is_registered_in_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_heif.py").write_text(
        "from PIL import Image, ImageFile\n"
        "class Reader(ImageFile.ImageFile):\n"
        "    def _open(self):\n"
        "        self._size, self._mode = (3, 2), 'RGB'\n"
        "        self.tile = [ImageFile._Tile('raw', (0, 0, 3, 2), 40, 'RGB')]\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', Reader)\n"
    )
    heif = b"\x00\x00\x00\x1cftypheic" + b"\x00" * 28 + bytes(range(18))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    with pytest.raises(RowError, match="pillow-heif"):
        decode(heif, LIMITS)
    import fake_heif

    fake_heif.register_heif_opener()
    assert decode(heif, LIMITS).getpixel((2, 1)) == (15, 16, 17)
    with pytest.raises(RowError, match="too_many_pixels"):
        decode(heif, replace(LIMITS, max_pixels=5))
    decoder = IsolatedDecoder(LIMITS, workers=1)
    assert decoder.decode(heif).getpixel((2, 1)) == (15, 16, 17)
    decoder.close()


@pytest.mark.parametrize("command", [["/no/such/python"], [sys.executable, "-c", "raise SystemExit(4)"]])
def test_workers_that_cannot_start_are_told_at_once(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation_module, "worker_command", lambda _: command)
    with pytest.raises(ConfigError, match=r"isolate_decoder=True, but .*(cannot be started|exit code 4)"):
        list(
            score_pairs([Record(inline("red"), "red")], replace(CONFIG, isolate_decoder=True), encoder=ColourEncoder())
        )


def test_a_run_with_isolation_scores_the_same_and_survives_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, isolate_decoder=True)
    truncated = "data:;base64," + base64.b64encode(make_png(size=(64, 64))[:80]).decode()
    records = [Record(inline(colour), "yellow") for colour in ("red", "green", "white")] + [Record(truncated, "red")]
    expected = list(score_pairs(records, CONFIG, encoder=ColourEncoder()))
    assert list(score_pairs(records, config, encoder=ColourEncoder())) == expected
    files = [make_png("red"), make_png("white"), make_png()[:50]]
    in_memory = list(score_images(files, ["yellow"] * 3, config, encoder=ColourEncoder()))
    assert in_memory == list(score_images(files, ["yellow"] * 3, CONFIG, encoder=ColourEncoder()))

    monkeypatch.setattr(isolation_module, "worker_command", lambda _: COMMAND)
    let_hangs_end(monkeypatch, b"\0hang")
    does = [b"\0fine", b"\0crash", b"\0fine 2", b"\0hang", b"\0noise", b"\0fine 3"] * 2
    results = list(score_images(does, ["white"] * len(does), config, encoder=ColourEncoder()))
    assert codes(results) == [None, "decoder_crash", None, "decoder_crash", "decoder_crash", None] * 2


@linux
def test_a_run_that_is_closed_early_leaves_no_worker() -> None:
    before = children()
    config = Config(batch_size=1, io_workers=2, isolate_decoder=True)
    results = score_pairs(
        (Record(inline(("red", "yellow")[i % 2]), f"red {i}") for i in range(1000)), config, encoder=ColourEncoder()
    )
    assert next(results).similarity == 1.0
    assert children() - before
    results.close()
    assert children() == before


def test_the_setting_is_a_truth_value() -> None:
    with pytest.raises(ConfigError, match="isolate_decoder must be True or False, not 'yes'"):
        Config(isolate_decoder="yes")  # type: ignore[arg-type]
    zero: Any = 0
    for name in ("decode_s", "decode_memory"):
        with pytest.raises(ConfigError, match=name):
            Limits(**{name: zero})


def test_it_is_told_where_memory_cannot_be_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(isolation_module, "MEMORY_USED", tmp_path / "none")
    IsolatedDecoder(LIMITS, workers=1).close()
    assert "can be limited on Linux only" in caplog.text
