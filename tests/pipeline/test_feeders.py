"""Feeders: processes that load pictures give what this one would, lose nothing however they end, and leave nothing behind."""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.clock import HANG_S, ending, wait_for
from tests.support.feeding import CRASHES, GROWS, HANGS, MoodyEncoder
from tests.support.images import SAMPLES, make_png, saved
from tests.support.paths import ROOT
from tests.support.records import COLOURS, codes
from tests.support.server import Server, response
from text_image_similarity import (
    Config,
    ConfigError,
    Limits,
    Record,
    RowError,
    RunStats,
    Scorer,
    ScoreResult,
    UsageError,
    score_csv,
    score_pairs,
)
from text_image_similarity.encoders import ModelInfo, SeveralEncoders
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline import LocalEngine, embed_images
from text_image_similarity.pipeline.feeders import FeederPlan, Feeders, LazyFeeders, plan, plan_feeders, pool
from text_image_similarity.pipeline.rows import LoadedImage

CONFIG = Config(batch_size=4, io_workers=4, retries=0, feeders=1)
KILLS = int(os.environ.get("KILLS", "1"))
Loaded = Future[LoadedImage | RowError]


def a_plan(config: Config = CONFIG) -> FeederPlan:
    found = plan_feeders(config, MoodyEncoder())
    assert found is not None
    return found


@pytest.fixture
def feeders() -> Iterator[Callable[[FeederPlan], Feeders]]:
    """Return a function that starts feeders, which end with the test."""
    made: list[Feeders] = []

    def make(planned: FeederPlan) -> Feeders:
        made.append(Feeders(planned, lambda key: None))
        return made[-1]

    yield make
    for each in made:
        each.close()


def png(number: int, size: tuple[int, int] | None = None) -> bytes:
    """Return a picture like no other one."""
    return make_png((number % 256, number // 256, 7), size or (3, 5))


def pixels_of(found: Loaded) -> np.ndarray:
    loaded = ending(found.result)
    assert isinstance(loaded, LoadedImage), loaded
    return np.asarray(loaded.pixels)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def rows(tmp_path: Path) -> list[Record]:
    """Make rows of all kinds, good and bad."""
    (tmp_path / "photo.png").write_bytes(make_png("green"))
    samples = [Record(sample, "a red thing") for sample in SAMPLES]
    bad: list[Any] = [
        "no-such-file.png",
        "gopher://x/y.png",
        "",
        None,
        b"",
        b"dots.png",
        b"\x89PNG\r\n\x1a\nnothing",
        b"GIF89a",
    ]
    good = [Record("photo.png", "a green thing"), Record({"bytes": None, "path": "photo.png"}, "green")]
    good += [Record(make_png("blue"), "blue"), Record(make_png("blue"), ""), Record(make_png("blue", GROWS), "red")]
    return [*samples, *(Record(each, "red") for each in bad), *good] * 3


def test_every_door_gives_what_it_gives_without_them(tmp_path: Path) -> None:
    records, alone = rows(tmp_path), replace(CONFIG, base_dir=tmp_path, feeders=0)
    fed, encoder = replace(alone, feeders=2), MoodyEncoder()
    stats = RunStats()
    assert list(score_pairs(records, fed, encoder=encoder, stats=stats)) == list(
        score_pairs(records, alone, encoder=encoder)
    )
    assert min(stats.seconds[stage] for stage in ("fetch", "decode")) > 0
    images: list[Any] = [*(record.url for record in records), tmp_path / "photo.png", np.zeros((2, 2, 3), np.uint8)]
    for here, there in zip(
        embed_images(images, alone, encoder=encoder), embed_images(images, fed, encoder=encoder), strict=True
    ):
        assert str(here) == str(there)
    (tmp_path / "in.csv").write_text("url,caption\nphoto.png,green\nphoto.png,red\nnone.png,red\n" * 9)
    for name, config in (("alone", alone), ("fed", fed)):
        score_csv(tmp_path / "in.csv", tmp_path / f"{name}.csv", config, engine=LocalEngine(encoder=encoder))
    assert (tmp_path / "fed.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


def test_a_model_and_several_of_them_get_their_pixels_and_a_decoder_may_be_isolated() -> None:
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (40 + n, 60, 3), np.uint8)) for n in range(5)]
    records = [Record(saved(image, "PNG"), f"caption {number}") for number, image in enumerate(images)]
    config = Config(model="mini", batch_size=2, feeders=0)
    with Scorer(config) as scorer:
        encoder, expected = scorer.encoder, list(scorer.score_pairs(records))
    assert list(score_pairs(records, replace(config, feeders=1), encoder=encoder)) == expected
    isolated = replace(config, feeders=1, isolate_decoder=True)
    several = SeveralEncoders((encoder, ColourEncoder()))  # type: ignore[arg-type]
    assert list(score_pairs(records, isolated, encoder=several)) == list(score_pairs(records, config, encoder=several))


def test_pixels_come_in_shared_memory_that_is_free_again_when_they_are_gone(
    feeders: Callable[[FeederPlan], Feeders],
) -> None:
    planned = replace(a_plan(), slots=6)
    pool = feeders(planned)
    found = [pool.load(png(number), RunStats()) for number in range(9)]  # three find no slot
    kept = [pixels_of(each) for each in found]
    for number, pixels in enumerate(kept):
        assert pixels[0, 0].tolist() == [number, 0, 7]
    assert pool.ring.free() == 0
    del found, pixels
    kept = kept[:2]
    gc.collect()
    later = [pixels_of(pool.load(png(300 + number), RunStats())) for number in range(20)]
    assert [pixels[0, 0].tolist() for pixels in kept] == [[0, 0, 7], [1, 0, 7]]
    assert [pixels[0, 0].tolist() for pixels in later] == [[44 + number, 1, 7] for number in range(20)]
    del kept, later
    gc.collect()
    assert pool.ring.free() == planned.slots


def test_an_encoder_may_keep_its_pixels_for_as_long_as_it_likes() -> None:
    encoder = MoodyEncoder(keeps=True)
    count = 3 * a_plan().slots
    records = [Record(png(number), "red") for number in range(count)]
    assert codes(list(score_pairs(records, CONFIG, encoder=encoder))) == [None] * count
    assert [pixels[0, 0].tolist() for pixels in encoder.kept] == [[n % 256, n // 256, 7] for n in range(count)]


def test_memory_is_bounded_in_bytes_and_rows_by_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_RING_BYTES", 12 * 8 * 8 * 3)
    planned = a_plan()
    assert (planned.slot_bytes, planned.slots, planned.look_ahead) == (192, 12, 8)
    pulled = itertools.count()
    endless = (Record(png(number), "red") for number in pulled)
    results = score_pairs(endless, CONFIG, encoder=MoodyEncoder())
    next(results)
    assert next(pulled) <= planned.slots + 1
    results.close()


def test_a_feeder_that_is_killed_takes_nothing_with_it(feeders: Callable[[FeederPlan], Feeders]) -> None:
    pool = feeders(a_plan(replace(CONFIG, feeders=2)))
    found = [pool.load(png(number), RunStats()) for number in range(200)]
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    for number, each in enumerate(found):
        assert pixels_of(each)[0, 0].tolist() == [number, 0, 7]


def test_a_picture_that_crashes_its_process_fails_alone(feeders: Callable[[FeederPlan], Feeders]) -> None:
    pool = feeders(a_plan())
    found = [pool.load(png(number, CRASHES if number == 7 else None), RunStats()) for number in range(20)]
    for number, each in enumerate(found):
        if number != 7:
            assert pixels_of(each)[0, 0].tolist() == [number, 0, 7]
    assert str(ending(found[7].result)) == (
        "decoder_crash: the feeder process was killed by signal 11 (Segmentation fault)"
    )


def test_a_picture_that_hangs_fails_alone(feeders: Callable[[FeederPlan], Feeders]) -> None:
    pool = feeders(replace(a_plan(), patience_s=0.5))
    found = [pool.load(png(number, HANGS if number == 3 else None), RunStats()) for number in range(9)]
    assert pixels_of(found[8])[0, 0].tolist() == [8, 0, 7]
    assert str(ending(found[3].result)) == "decoder_crash: the decoder took longer than 0.5 s"


def test_a_feeder_that_stands_still_is_replaced(feeders: Callable[[FeederPlan], Feeders]) -> None:
    pool = feeders(replace(a_plan(), silence_s=2.5, patience_s=2.0))
    (before,) = pool.pids()
    os.kill(before, signal.SIGSTOP)
    found = [pool.load(png(number), RunStats()) for number in range(9)]
    assert [pixels_of(each)[0, 0].tolist() for each in found] == [[number, 0, 7] for number in range(9)]
    assert pool.pids() != [before]


def test_ctrl_c_and_sigterm_of_the_group_are_the_parents_to_answer(feeders: Callable[[FeederPlan], Feeders]) -> None:
    inherited = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it may be ignored where tests run
    try:
        pool = feeders(a_plan())
    finally:
        signal.signal(signal.SIGTERM, inherited)
    (pid,) = pool.pids()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert pixels_of(pool.load(png(1), RunStats()))[0, 0].tolist() == [1, 0, 7]
    assert pool.pids() == [pid]


def test_a_run_that_is_closed_early_ends_its_feeders(server: Server) -> None:
    server.routes["/x"] = server.hang
    limits = Limits(allow_private_addresses=True, total_s=600)
    config = replace(CONFIG, feeders=2, limits=limits, timeout_s=600)
    records = [Record(png(1), "red"), *(Record(server.url(f"/x?{number}"), "red") for number in range(8))]
    with Scorer(config, encoder=MoodyEncoder()) as scorer:
        results = scorer.score_pairs(records * 3)
        consumer = threading.Thread(target=consume, args=(results,))
        consumer.start()
        server.wait_for("/x", 2)
        pids = children()
        assert len(pids) == 2
    consumer.join(HANG_S)
    assert not any(map(alive, pids))


def consume(results: Iterator[ScoreResult]) -> None:
    with pytest.raises(UsageError, match="closed"):
        list(results)


def children() -> list[int]:
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [
        int(pid)
        for path in listed
        for pid in path.read_text().split()
        if b"feeders.program" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


_PARENT = """
import itertools, json, os, signal, sys
from tests.pipeline.test_feeders import CONFIG, MoodyEncoder, Record, children, png, replace, score_pairs
records = (Record(png(number % 60000), "red") for number in itertools.count())
results = score_pairs(records, replace(CONFIG, feeders=2), encoder=MoodyEncoder())
next(results)
fork = os.fork() if sys.argv[1] == "fork" else 1
if not fork:
    signal.pause()
print(json.dumps([fork, children()]), flush=True)
for result in results:
    assert result.error is None
"""


@pytest.mark.parametrize("does", ["fork", *["run"] * KILLS])
def test_a_parent_that_is_killed_leaves_neither_processes_nor_memory(does: str) -> None:
    shared = set(Path("/dev/shm").iterdir())
    command, environment = [sys.executable, "-c", _PARENT, does], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        fork, pids = json.loads(run.stdout.readline())
        assert len(pids) == 2
        with suppress(subprocess.TimeoutExpired):
            run.wait(random.uniform(0, 0.3))
        run.kill()
    try:
        wait_for(lambda: not any(map(alive, pids)))
    finally:
        if does == "fork":  # it holds the pipes' ends open
            os.kill(fork, signal.SIGKILL)
    assert set(Path("/dev/shm").iterdir()) <= shared


def test_feeders_that_are_killed_again_and_again_lose_no_row() -> None:
    config, encoder = replace(CONFIG, feeders=2), MoodyEncoder()
    records = [Record(png(number), COLOURS[number % 7]) for number in range(200 * KILLS)]
    expected = list(score_pairs(records, replace(config, feeders=0), encoder=encoder))
    chance, found = random.Random(3), []
    for result in score_pairs(records, config, encoder=encoder):
        found.append(result)
        if chance.random() < 0.02 and (pids := children()):
            os.kill(chance.choice(pids), signal.SIGKILL)
    assert [one for one in zip(found, expected, strict=True) if one[0] != one[1]] == []


def test_limits_hold_for_all_feeders_together(server: Server) -> None:
    crowd = threading.Event()

    def wait_for_company(*_: object) -> bytes:
        if server.busiest > 3:
            crowd.set()
        crowd.wait(0.05)  # which of the feeders get rows, and when, is not known
        return response(make_png("red"))

    server.routes["/x"] = wait_for_company
    limits = Limits(allow_private_addresses=True, per_host=3)
    config = replace(CONFIG, feeders=8, io_workers=20, limits=limits)
    planned = a_plan(config)
    assert [each.config.limits.per_host for each in planned.settings] == [1, 1, 1]  # more would ask for more
    assert [each.config.io_workers for each in planned.settings] == [7, 7, 6]
    records = [Record(server.url(f"/x?{number}"), "red") for number in range(60)]
    assert codes(list(score_pairs(records, config, encoder=MoodyEncoder()))) == [None] * 60
    assert server.busiest <= 3


def test_a_hosts_retries_are_shared_out(server: Server) -> None:
    server.routes["/x"] = response(status="500 Internal Server Error")
    limits = Limits(allow_private_addresses=True, total_s=600)
    config = replace(CONFIG, feeders=2, retries=1, limits=limits)
    records = [Record(server.url(f"/x?{number}"), "red") for number in range(30)]
    assert codes(list(score_pairs(records, config, encoder=MoodyEncoder()))) == ["http_5xx"] * 30
    # Each of two has 5 for nothing, and earns a fifth of one with each request.
    assert sum(server.hits.values()) - 30 <= 10 + sum(server.hits.values()) / 5


class Unsendable(ColourEncoder):
    preparer = property(lambda self: threading.Lock())


def test_an_encoder_that_prepares_here_alone_is_refused_or_fed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="feeders=2, but Unsendable cannot prepare images in another process"):
        Scorer(replace(CONFIG, feeders=2), encoder=Unsendable())
    monkeypatch.setattr(plan, "usable_cores", lambda: 16)
    assert plan_feeders(Config(), Unsendable()) is None


class OnGpu(ColourEncoder):
    info = ModelInfo(model="colour", device="cuda:0")


@pytest.mark.parametrize(
    ("cores", "encoder", "count"),
    [(8, ColourEncoder(), 0), (10, ColourEncoder(), 5), (32, ColourEncoder(), 8), (2, OnGpu(), 0), (4, OnGpu(), 2)],
)
def test_there_are_feeders_by_themselves_where_one_process_is_too_slow(
    cores: int, encoder: ColourEncoder, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "usable_cores", lambda: cores)
    planned = plan_feeders(Config(), encoder)
    assert (len(planned.settings) if planned else 0) == count
    assert plan_feeders(Config(), encoder, skips=True) is None
    assert plan_feeders(Config(embedding_cache="cache.sqlite"), encoder) is None


def test_a_short_run_starts_none_by_itself() -> None:
    lazy = LazyFeeders(replace(a_plan(), after=512), lambda key: None)
    try:
        assert lazy.after(512) is None
        assert isinstance(ending(lambda: lazy.after(513)), Feeders)
    finally:
        lazy.close()


def test_an_injected_transport_is_asked_in_this_process() -> None:
    web = httpx.MockTransport(lambda request: httpx.Response(200, content=make_png("red")))
    record = Record("http://photos.test/1.png", "red")
    assert codes(list(score_pairs([record], CONFIG, encoder=MoodyEncoder(), transport=web))) == [None]


def test_feeders_that_cannot_be_started_are_an_error_or_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "feeder_command", lambda: [sys.executable, "-c", "import sys; sys.exit(5)"])
    records = [Record(png(number), "red") for number in range(5)]
    with pytest.raises(ConfigError, match="feeders=1, but the feeder process ended with exit code 5; set feeders=0"):
        next(score_pairs(records, CONFIG, encoder=MoodyEncoder()))
    assert LazyFeeders(replace(a_plan(), after=1), lambda key: None).after(2) is None
    assert "images are loaded in this process: feeders=1, but" in caplog.text


def test_rows_get_errors_and_later_ones_are_loaded_here_when_no_feeder_can_be_started_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lazy = LazyFeeders(a_plan(), lambda key: None)
    feeders = lazy.after(1)
    assert feeders is not None
    monkeypatch.setattr(feeders, "_command", [sys.executable, "-c", "import sys; sys.exit(5)"])
    found = [feeders.load(png(number), RunStats()) for number in range(200)]
    for pid in feeders.pids():
        os.kill(pid, signal.SIGKILL)
    outcomes = [ending(each.result) for each in found]
    assert str(outcomes[-1]) == "decoder_crash: the feeder process ended with exit code 5"
    assert lazy.after(2) is None
    lazy.close()
