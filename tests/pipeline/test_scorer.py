"""Scorer: one session for many calls: what it opens once, remembers, shares between threads, and leaves behind."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.clock import HANG_S
from tests.support.images import inline, make_png
from tests.support.records import COLOURS, CONFIG, Web, numbered
from text_image_similarity import (
    Config,
    ConfigError,
    LocalEngine,
    Record,
    RunStats,
    Scorer,
    ScoreResult,
    TableError,
    UsageError,
    create_predictor,
    score_csv,
    score_images,
    score_pairs,
    score_table,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.fetch import Fetcher
from text_image_similarity.pipeline import embed_images, embed_texts, score_concurrently
from text_image_similarity.pipeline import scorer as scorer_module
from text_image_similarity.pipeline.loaders import Loaders
from text_image_similarity.pipeline.rows import PendingImage
from text_image_similarity.records import EncodedImage


@dataclass(frozen=True)
class Counting(ColourEncoder):
    """Counts what it is asked to encode."""

    batch_invariant: bool = True
    images: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        self.images.append(len(pixels))
        return super().encode_pixels(pixels)

    def encode_tokens(self, rows: Sequence[str]) -> Any:
        self.texts.extend(rows)
        return super().encode_tokens(rows)


@pytest.fixture
def own_threads() -> Callable[[], list[threading.Thread]]:
    """Return a function that lists the threads of scorers which were started since the test began."""
    before = threading.enumerate()
    return lambda: [t for t in threading.enumerate() if t not in before and t.name.startswith("score-")]


def test_a_session_gives_what_single_calls_give() -> None:
    records = [*numbered(30), Record("no-such-file.png", "red"), Record(inline("red"), "")]
    images, texts = [make_png(colour) for colour in COLOURS], [f"a {colour} thing" for colour in COLOURS]
    with Scorer(CONFIG, encoder=ColourEncoder(), transport=Web().transport()) as scorer:
        for _ in range(2):
            assert list(scorer.score_pairs(records)) == list(
                score_pairs(records, CONFIG, encoder=ColourEncoder(), transport=Web().transport())
            )
            assert list(scorer.score_images(images, texts)) == list(
                score_images(images, texts, CONFIG, encoder=ColourEncoder())
            )
            for ours, theirs in (
                (scorer.embed_images(images), embed_images(images, CONFIG, encoder=ColourEncoder())),
                (scorer.embed_texts(texts), embed_texts(texts, CONFIG, encoder=ColourEncoder())),
            ):
                assert np.array_equal(np.stack(list(ours)), np.stack(list(theirs)))  # type: ignore[arg-type]


def test_connections_and_threads_are_opened_once_and_closed_at_the_end(
    monkeypatch: pytest.MonkeyPatch, own_threads: Callable[[], list[threading.Thread]]
) -> None:
    opened: list[int] = []

    def fetcher(*args: Any, **given: Any) -> Fetcher:
        opened.append(1)
        return Fetcher(*args, **given)

    monkeypatch.setattr(scorer_module, "Fetcher", fetcher)
    with Scorer(CONFIG, encoder=ColourEncoder(), transport=Web().transport()) as scorer:
        assert own_threads() == []  # until there is something to do
        list(scorer.embed_texts(["red"]))
        assert own_threads() == []  # captions need none
        list(scorer.score_pairs(numbered(9)))
        running = own_threads()
        list(scorer.score_pairs(numbered(9)))
        list(scorer.embed_images([inline("red")]))
        assert own_threads() == running != []
        assert opened == [1]
    assert own_threads() == []


def test_what_was_encoded_is_remembered_from_call_to_call_and_part_to_part() -> None:
    encoder = Counting()
    config = replace(CONFIG, chunk_size=5)
    records = [Record(inline(COLOURS[i % 2]), f"a {COLOURS[i % 3]} thing") for i in range(40)]
    with Scorer(config, encoder=encoder) as scorer:
        results = list(scorer.score_pairs(records))
        assert (sum(encoder.images), sorted(encoder.texts)) == (2, sorted({r.text for r in records}))
        assert list(scorer.score_pairs(records)) == results
        list(scorer.embed_texts([r.text for r in records]))
        list(scorer.embed_images([make_png(COLOURS[0])]))
        assert (sum(encoder.images), len(encoder.texts)) == (2, 3)


def test_vectors_that_depend_on_their_batch_are_not_carried_to_other_parts() -> None:
    encoder = Counting(batch_invariant=False)
    records = [Record(inline("red"), "red")] * 20
    with Scorer(replace(CONFIG, chunk_size=5), encoder=encoder) as scorer:
        list(scorer.score_pairs(records))
    assert (encoder.images, len(encoder.texts)) == ([1, 1, 1, 1], 4)


def test_a_table_of_few_captions_encodes_each_of_them_once(tmp_path: Path) -> None:
    for colour in COLOURS:
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    rows = "".join(f"{COLOURS[i % 7]}.png,{COLOURS[i % 5]}\n" for i in range(300))
    (tmp_path / "in.csv").write_text(f"url,caption\n{rows}")
    encoder = Counting()
    score_csv(tmp_path / "in.csv", tmp_path / "out.csv", Config(chunk_size=20), engine=LocalEngine(encoder=encoder))
    assert (sum(encoder.images), len(encoder.texts)) == (7, 5)


def test_tags_come_back_with_their_results_and_known_results_keep_their_place() -> None:
    known = ScoreResult(0.25)
    rows = [(i, known if i % 3 else record) for i, record in enumerate(numbered(50))]
    with Scorer(replace(CONFIG, chunk_size=7), encoder=ColourEncoder(), transport=Web().transport()) as scorer:
        found = list(scorer.score_tagged(rows))
    assert [tag for tag, _ in found] == list(range(50))
    assert [round(result.similarity, 5) for _, result in found] == [0.25 if i % 3 else 1.0 for i in range(50)]
    assert all(result is known for i, (_, result) in enumerate(found) if i % 3)


def test_known_results_take_no_place_in_a_batch_and_shorten_no_look_ahead() -> None:
    encoder, asked = Counting(), []
    known = ScoreResult(0.25)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, content=make_png("red", (1 + len(asked), 1)))

    rows = [(i, Record(f"http://photos.test/{i}.png", "red") if i % 20 == 0 else known) for i in range(400)]
    with Scorer(CONFIG, encoder=encoder, transport=httpx.MockTransport(answer)) as scorer:
        results = scorer.score_tagged(rows)
        next(results)
        assert len(encoder.images) == 1
        assert len(list(results)) == 399
    assert encoder.images == [4] * 5  # batches are full


def test_threads_share_a_session() -> None:
    expected = [result.similarity for result in score_pairs(_inlined(60), CONFIG, encoder=ColourEncoder())]
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer, ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda _: [result.similarity for result in scorer.score_pairs(_inlined(60))], range(12))
        assert all(similarities == expected for similarities in found)


def _inlined(count: int) -> list[Record]:
    return [Record(inline(COLOURS[i % 7]), f"{COLOURS[(i * i) % 7]} {i}") for i in range(count)]


def test_a_call_that_is_given_up_leaves_no_downloads_behind(own_threads: Callable[[], list[threading.Thread]]) -> None:
    asked: Counter[str] = Counter()
    hold = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        asked[request.url.path] += 1
        if request.url.path != "/0.png":
            hold.wait(HANG_S)
        return httpx.Response(200, content=make_png("red"))

    records = [Record(f"http://photos.test/{i}.png", "red") for i in range(1000)]
    config = replace(CONFIG, batch_size=1, timeout_s=600.0)
    with Scorer(config, encoder=ColourEncoder(), transport=httpx.MockTransport(answer)) as scorer:
        results = scorer.score_pairs(records)
        next(results)
        results.close()
        hold.set()
        list(scorer.score_pairs([Record("http://photos.test/0.png", "blue")]))
        # The four threads may each have begun one; the rest of the look-ahead was dropped.
        assert len(asked) <= 2 + config.io_workers
        assert len(own_threads()) == config.io_workers


def test_a_closed_session_refuses_and_ends_what_is_under_way() -> None:
    scorer = Scorer(CONFIG, encoder=ColourEncoder(), transport=Web().transport())
    results = scorer.score_pairs(numbered(500))
    next(results)
    scorer.close()
    with pytest.raises(UsageError, match="closed"):
        list(results)
    for call in (
        lambda: scorer.score_pairs([]),
        lambda: scorer.score_images([], []),
        lambda: scorer.embed_images([]),
        lambda: scorer.embed_texts([]),
    ):
        with pytest.raises(UsageError, match="closed"):
            call()
    scorer.close()  # once more does no harm


def test_a_matrix_holds_every_pair_as_score_pairs_gives_it() -> None:
    images, texts = [inline(colour) for colour in COLOURS], [f"a {colour} thing" for colour in COLOURS]
    with Scorer(replace(CONFIG, score="unit"), encoder=ColourEncoder()) as scorer:
        found = scorer.similarity_matrix([*images, "no-such-file.png"], [*texts, " "])
        pairs = [Record(image, text) for image in images for text in texts]
        expected = [result.similarity for result in scorer.score_pairs(pairs)]
    assert found.shape == (8, 8)
    assert np.array_equal(found[:7, :7].ravel(), np.array(expected, np.float32))
    assert np.isnan(found[7]).all()
    assert np.isnan(found[:, 7]).all()


def test_bad_settings_raise_before_a_call(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="embedding_cache"):
        Scorer(replace(CONFIG, embedding_cache=tmp_path), encoder=ColourEncoder())


def test_an_engine_scores_after_it_is_started() -> None:
    with pytest.raises(UsageError, match=r"call start\(\)"):
        next(LocalEngine(encoder=ColourEncoder()).score_parts([], RunStats()))


def test_a_forgotten_session_ends_its_threads(own_threads: Callable[[], list[threading.Thread]]) -> None:
    scorer = Scorer(CONFIG, encoder=ColourEncoder())
    list(scorer.score_pairs([Record(inline("red"), "red")]))
    threads = own_threads()
    assert threads
    del scorer
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive()


def test_a_vector_that_a_caller_changes_changes_no_score() -> None:
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        for _ in range(2):
            for vector in (*scorer.embed_texts(["red", "red"]), *scorer.embed_images([inline("red")] * 2)):
                assert isinstance(vector, np.ndarray)
                assert vector.tolist() == [1, 0, 0]
                vector *= -1
        assert next(scorer.score_pairs([Record(inline("red"), "red")])).similarity == 1.0


def in_a_fork(check: Callable[[], bool]) -> bool:
    """Return what a check says in a forked process; one that hangs or raises says no."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_cannot_be_pickled_says_what_to_send() -> None:
    with Scorer(Config(model="mini", device="cpu")) as scorer:
        for copy in (pickle.dumps, deepcopy):
            with pytest.raises(TypeError, match="the encoder of mini cannot be pickled or copied; send its Config"):
                copy(scorer.encoder)
            with pytest.raises(TypeError, match="a Scorer cannot be pickled or copied; send its Config"):
                copy(scorer)


def closed(scorer: Scorer) -> bool:
    scorer.close()
    return True


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    config = replace(CONFIG, embedding_cache=tmp_path / "cache.sqlite")
    with Scorer(config, encoder=ColourEncoder(), transport=Web().transport()) as scorer:
        expected = list(scorer.score_pairs(numbered(20)))
        assert in_a_fork(lambda: list(scorer.score_pairs(numbered(20))) == expected)
        assert in_a_fork(partial(closed, scorer))
        assert list(scorer.score_pairs(numbered(20))) == expected


def test_a_forked_process_cannot_go_on_with_results() -> None:
    def refused(results: Generator[ScoreResult]) -> bool:
        with pytest.raises(
            UsageError, match="started before a fork, which does not copy threads; start it in this process"
        ):
            list(results)
        return True

    with Scorer(CONFIG, encoder=ColourEncoder(), transport=Web().transport()) as scorer:
        for results in (
            scorer.score_pairs(numbered(200)),
            score_pairs(numbered(200), CONFIG, encoder=ColourEncoder(), transport=Web().transport()),
        ):
            next(results)
            assert in_a_fork(partial(refused, results))
            assert len(list(results)) == 199


def test_a_forked_process_leaves_alone_what_the_threads_of_its_parent_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(results: Generator[ScoreResult]) -> bool:
        monkeypatch.setattr(PendingImage, "cancel", lambda _: os._exit(3))  # may wait for a lock that nobody gives back
        with pytest.raises(UsageError, match="started before a fork"):
            list(results)
        return True

    with Scorer(CONFIG, encoder=ColourEncoder(), transport=Web().transport()) as scorer:
        results = scorer.score_pairs(numbered(200))
        next(results)
        assert in_a_fork(partial(refused, results))
        results.close()


def test_a_row_that_closing_cut_short_is_not_answered() -> None:
    asked = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/0.png":
            asked.set()
            return httpx.Response(503)
        return httpx.Response(200, content=make_png("red"))

    records = [Record(f"http://photos.test/{i}.png", "red") for i in range(40)]
    config = replace(CONFIG, retries=8, timeout_s=600.0)
    scorer = Scorer(config, encoder=ColourEncoder(), transport=httpx.MockTransport(answer))

    def close() -> None:
        asked.wait(HANG_S)
        scorer.close()

    closer = threading.Thread(target=close)
    closer.start()
    found: list[ScoreResult] = []
    with pytest.raises(UsageError, match="closed"):
        found.extend(scorer.score_pairs(records))
    closer.join()
    assert found == []


def test_the_callers_own_cancellation_is_not_taken_for_a_closed_session() -> None:
    def records() -> Any:
        yield Record(inline("red"), "red")
        raise CancelledError

    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer, pytest.raises(CancelledError):
        list(scorer.score_pairs(records()))


def test_images_in_any_kind_of_bytes_count_for_the_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.pipeline.run._AHEAD_BYTES", 1000)
    png = make_png("red")

    def images(kind: Callable[[bytes], EncodedImage], pulled: list[int]) -> Iterator[EncodedImage]:
        for i in range(300):
            pulled.append(i)
            yield kind(png)

    for kind in (bytes, bytearray, memoryview):
        pulled: list[int] = []
        with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
            results = scorer.score_images(images(kind, pulled), ["red"] * 300)
            next(results)
            results.close()
        assert len(pulled) < 60, kind


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda results: results[:8], "8 of 12 rows"),
        (lambda results: [results[0], *results], "mixed up the results"),
        (lambda results: results[1:], "mixed up the results"),
        (lambda results: results[:6], "2 results for a part of 4"),
    ],
)
def test_an_engine_that_loses_rows_ends_the_run(tmp_path: Path, change: Any, said: str) -> None:
    class Wrong(LocalEngine):
        def score_parts(self, parts: Any, stats: Any) -> Any:
            yield from change(list(super().score_parts(parts, stats)))

    (tmp_path / "red.png").write_bytes(make_png("red"))
    (tmp_path / "in.csv").write_text("url,caption\n" + "red.png,red\n" * 12)
    with pytest.raises(TableError, match=said):
        score_csv(
            tmp_path / "in.csv", tmp_path / "out.csv", Config(chunk_size=4), engine=Wrong(encoder=ColourEncoder())
        )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_part_with_too_few_or_too_many_results_is_refused(count: int) -> None:
    rows = [(i, Record("a.png", "red")) for i in range(2)]
    with pytest.raises(TableError, match=f"returned {count} results for 2 records"):
        list(score_concurrently(lambda records: ([ScoreResult(0.5)] * count, 0), [rows], RunStats(), at_once=2))


def test_parts_before_a_broken_source_are_answered() -> None:
    def parts() -> Any:
        yield from ([(i, Record("a.png", "red"))] for i in range(4))
        raise OSError("the source broke")

    results = score_concurrently(lambda records: ([ScoreResult(0.5)], 0), parts(), RunStats(), at_once=3)
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="the source broke"):
        next(results)


def test_what_a_notebook_shows_is_short(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(make_png())
    (tmp_path / "in.csv").write_text("url,caption\nred.png,red\n<none>.png,red\n")
    summary = score_table(tmp_path / "in.csv", tmp_path / "out.csv", engine=LocalEngine(encoder=ColourEncoder()))
    assert repr(summary).startswith("Summary(1 of 2 rows scored, model='colour")
    assert len(repr(summary)) < 250
    assert "<tr><th>failed: file_not_found</th><td>1</td></tr>" in summary._repr_html_()
    assert "<td>1.0000</td>" in summary._repr_html_()
    with create_predictor(encoder=ColourEncoder()) as predictor:
        database = predictor.build_image_database([tmp_path / "red.png"])
        captions = predictor.build_caption_database(["red", "blue"])
        assert repr(database).startswith("ImageDatabase(1 images by ")
        assert repr(captions).startswith("CaptionDatabase(2 captions by ")
        assert repr(database) in repr(predictor)
    assert repr(Scorer(encoder=ColourEncoder())).startswith("Scorer(colour")


def test_calls_that_share_the_threads_take_turns() -> None:
    """Slow images of one call do not keep those of another waiting until all of them are loaded."""
    loaders, going = Loaders(1), threading.Event()
    order: list[str] = []
    first = loaders.submit(lambda: going.wait(HANG_S), "slow")
    futures = [loaders.submit(partial(order.append, name), name[0]) for name in ("s1", "s2", "s3", "f1", "f2", "s4")]
    going.set()
    assert first.result(HANG_S)
    for future in futures:
        future.result(HANG_S)
    assert order == ["s1", "f1", "s2", "f2", "s3", "s4"]
    loaders.close()


def test_the_images_of_each_call_are_loaded_in_turn() -> None:
    """The calls of one scorer count as owners of their images."""
    owners: list[object] = []
    with Scorer(Config(batch_size=4, io_workers=2), encoder=ColourEncoder()) as scorer:
        list(scorer.embed_images([inline("red")]))
        context = scorer._context
        submit = context.loaders.submit

        def note(task: Any, owner: Any = None) -> Any:
            owners.append(owner)
            return submit(task, owner)

        context.loaders.submit = note  # type: ignore[method-assign]
        one, other = (scorer.embed_images([inline("red"), inline("blue")]) for _ in range(2))
        for call in (one, other):
            next(call)
        list(one), list(other)
    assert len(owners) == 4
    assert len(set(owners)) == 2
    assert None not in owners
