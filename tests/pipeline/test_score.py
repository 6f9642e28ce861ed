"""score_pairs and score_images: order, laziness, reuse, isolation of bad rows."""

from __future__ import annotations

import base64
import io
import itertools
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.clock import HANG_S, ending
from tests.support.images import inline, make_png
from tests.support.paths import ROOT
from tests.support.records import COLOURS, CONFIG, Web, codes, numbered
from tests.support.server import Server, response
from text_image_similarity import (
    Config,
    ConfigError,
    Limits,
    ModelInfo,
    ModelUnavailableError,
    Record,
    RowError,
    RunStats,
    ScoreResult,
    load_encoder,
    score_images,
    score_pairs,
)
from text_image_similarity.config import ScoreKind
from text_image_similarity.decode import decode
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline import embed_images, embed_texts
from text_image_similarity.pipeline.scorer import Scorer
from text_image_similarity.pipeline.sources import ImageSource
from text_image_similarity.preprocess import ImageLike, Preprocess
from text_image_similarity.records import EncodedImage


@dataclass(frozen=True)
class Recording(ColourEncoder):
    """Notes its batches and can be told to fail."""

    images: list[int] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)
    poison: str = "nothing"

    def encode_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        self.images.append(len(pixels))
        return super().encode_pixels(pixels)

    def encode_tokens(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_text(texts)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        self.texts.append(list(texts))
        if any(self.poison in text for text in texts):
            raise RuntimeError("the model choked")
        vectors = super().encode_text(texts)
        vectors[["infinite" in text for text in texts]] = np.inf
        return vectors


def run(records: Sequence[Record], config: Config = CONFIG, **given: Any) -> list[ScoreResult]:
    return list(score_pairs(records, config, encoder=given.pop("encoder", ColourEncoder()), **given))


def test_scores_are_what_a_person_predicts() -> None:
    pairs = [("red", "a red dot"), ("red", "a green dot"), ("red", "yellow"), ("white", "no colour named")]
    results = run([Record(inline(picture), text) for picture, text in pairs])
    assert [round(result.similarity, 4) for result in results] == [1.0, 0.0, 0.7071, 1.0]
    assert [result.error for result in results] == [None] * 4


def test_results_come_in_order_whatever_the_batches() -> None:
    records = [Record(inline(COLOURS[i % 7]), COLOURS[(i * i) % 7]) for i in range(50)]
    expected = run(records, replace(CONFIG, batch_size=1))
    assert len({result.similarity for result in expected}) > 3
    for batch_size in (3, 32, 100):
        assert run(records, replace(CONFIG, batch_size=batch_size)) == expected


def test_numbers_print_short_and_are_float32() -> None:
    similarity = run([Record(inline("red"), "yellow")])[0].similarity
    assert repr(similarity) == "0.70710677"
    assert np.float32(similarity) == np.float32(0.70710677)


@pytest.mark.parametrize(("kind", "value"), [("unit", 0.8536), ("clip_score", 70.71068), ("clipscore", 1.767767)])
def test_score_kinds(kind: ScoreKind, value: float) -> None:
    assert run([Record(inline("red"), "yellow")], replace(CONFIG, score=kind))[0].similarity == pytest.approx(
        value, 1e-6
    )


def test_a_bad_row_leaves_its_neighbours_alone() -> None:
    good = Record(inline("red"), "red")
    nothing: Any = None
    nan: Any = math.nan
    bad = {
        "empty_caption": [Record(inline("red"), ""), Record(inline("red"), "  "), Record(inline("red"), nothing),
                          Record(inline("red"), nan)],
        "invalid_url": [Record("", "red"), Record(nothing, "red"), Record(nan, "red"), Record("http://", "red")],
        "unsupported_scheme": [Record("ftp://x/a.png", "red")],
        "file_not_found": [Record("none.png", "red")],
        "not_an_image": [Record("data:,hello%20world", "red")],
        "unsupported_format": [Record("data:,%3Csvg%3E%3C/svg%3E", "red")],
        "empty_body": [Record("data:,", "red")],
        "truncated": [Record("data:;base64," + base64.b64encode(make_png()[:50]).decode(), "red")],
        "blocked_address": [Record("http://127.0.0.1:9/", "red")],
        "encoder_error": [Record(inline("red"), "poison red")],
        "non_finite": [Record(inline("red"), "infinite red")],
    }  # fmt: skip
    records = [good]
    expected: list[str | None] = [None]
    for code, rows in bad.items():
        for row in rows:
            records += [row, good]
            expected += [code, None]
    results = run(records, replace(CONFIG, limits=Limits()), encoder=Recording(poison="poison"))
    assert codes(results) == expected
    for result in results:
        assert result.similarity == 1.0 if result.error is None else math.isnan(result.similarity)


def test_a_row_that_breaks_its_batch_breaks_only_itself() -> None:
    texts = ["red 0", "red 1", "poison red", "red 2"]  # one batch
    results = run([Record(inline("red"), text) for text in texts], encoder=Recording(poison="poison"))
    assert codes(results) == [None, None, "encoder_error", None]
    assert [result.similarity for result in results if result.error is None] == [1.0] * 3


def test_unexpected_exceptions_cost_one_row() -> None:
    @dataclass(frozen=True)
    class Fragile(ColourEncoder):
        def prepare(self, image: Image.Image) -> np.ndarray:
            if image.width == 13:
                raise ZeroDivisionError("unlucky")
            return super().prepare(image)

    unlucky = "data:;base64," + base64.b64encode(make_png(size=(13, 13))).decode()
    results = run([Record(inline("red"), "red"), Record(unlucky, "red")], encoder=Fragile())
    assert codes(results) == [None, "decoder_crash"]
    assert "ZeroDivisionError: unlucky" in (results[1].error or "")


def test_repeated_pictures_and_captions_are_worked_on_once() -> None:
    web, encoder = Web(), Recording()
    records = [Record(f"http://photos.test/red/{i % 3}.png", f"caption {i % 2}") for i in range(30)]
    results = run(records, encoder=encoder, transport=web.transport())
    assert codes(results) == [None] * 30
    assert web.asked == {f"/red/{i}.png": 1 for i in range(3)}
    assert sum(encoder.images) == 3
    assert sorted(itertools.chain(*encoder.texts)) == ["caption 0", "caption 1"]


def test_pictures_of_the_same_content_are_encoded_once() -> None:
    web, encoder = Web(), Recording()
    # The same picture under 30 names: some within one batch, the rest in later ones.
    results = run([Record(f"http://photos.test/red/7.png?{i}", f"red {i}") for i in range(30)], encoder=encoder,
                  transport=web.transport())  # fmt: skip
    assert codes(results) == [None] * 30
    assert web.asked["/red/7.png"] == 30
    assert sum(encoder.images) == 1


def test_captions_of_like_length_are_encoded_together() -> None:
    encoder = Recording()
    texts = ["red " * n for n in (9, 1, 5, 2, 8, 3, 7, 4)]
    run([Record(inline("red"), text) for text in texts], encoder=encoder)
    assert [[len(text) // 4 for text in batch] for batch in encoder.texts] == [[1, 2, 3, 4], [5, 7, 8, 9]]


def test_a_caption_that_breaks_the_tokenizer_breaks_only_itself() -> None:
    @dataclass(frozen=True)
    class Picky(ColourEncoder):
        def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
            if any("poison" in text for text in texts):
                raise RuntimeError("no such token")
            return texts

    results = run([Record(inline("red"), text) for text in ("red 0", "poison red", "red 1")], encoder=Picky())
    assert codes(results) == [None, "encoder_error", None]
    assert "no such token" in (results[1].error or "")


def test_an_embedding_cache_leaves_only_what_is_new_to_encode(tmp_path: Path) -> None:
    config = replace(CONFIG, embedding_cache=tmp_path / "embeddings.sqlite")
    records = numbered(20)
    first, second = Recording(), Recording()
    expected = run(records, config, encoder=first, transport=Web().transport())
    assert run(records, config, encoder=second, transport=Web().transport()) == expected
    assert sum(first.images) == 20
    assert (second.images, second.texts) == ([], [])
    again = [Record(record.url, f"{record.text} again") for record in records]
    run(again, config, encoder=second, transport=Web().transport())
    assert second.images == []
    assert sum(map(len, second.texts)) == 20
    other = Recording(fingerprint="another model")
    run(records, config, encoder=other, transport=Web().transport())
    assert sum(other.images) == 20


def test_the_caps_hold_for_pictures_in_the_cache_too(tmp_path: Path) -> None:
    config = replace(CONFIG, embedding_cache=tmp_path / "embeddings.sqlite")
    record = Record("data:image/png;base64," + base64.b64encode(make_png(size=(40, 40))).decode(), "red")
    assert codes(run([record], config)) == [None]
    strict = replace(config, limits=replace(config.limits, max_pixels=1000))
    assert codes(run([record], strict)) == ["too_many_pixels"]


def test_a_panic_on_another_thread_ends_the_run() -> None:
    class PanicError(BaseException):
        """What a native library may raise."""

    @dataclass(frozen=True)
    class Panicking(ColourEncoder):
        def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
            raise PanicError

    with pytest.raises(PanicError):
        run([Record(inline("red"), "red")], encoder=Panicking())


def test_what_fails_is_not_kept_in_the_cache(tmp_path: Path) -> None:
    config = replace(CONFIG, embedding_cache=tmp_path / "embeddings.sqlite")
    for _ in range(2):
        encoder = Recording(poison="poison")
        texts = ["infinite red", "poison red"]
        results = run([Record(inline("red"), text) for text in texts], config, encoder=encoder)
        assert codes(results) == ["non_finite", "encoder_error"]


def test_a_cache_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at as one " * 50)
    with pytest.raises(ConfigError, match=r"notes\.txt.*cannot be used"):
        score_pairs([], replace(CONFIG, embedding_cache=tmp_path / "notes.txt"), encoder=ColourEncoder())
    with pytest.raises(ConfigError, match="fingerprint"):
        score_pairs([], replace(CONFIG, embedding_cache=tmp_path / "new.sqlite"), encoder=ColourEncoder(fingerprint=""))


def test_a_repeated_failure_is_met_once() -> None:
    web = Web()
    results = run([Record("http://photos.test/none/0.png", f"t{i}") for i in range(20)], transport=web.transport())
    assert codes(results) == ["http_4xx"] * 20
    assert web.asked["/none/0.png"] == 1


def test_batches_are_full_whatever_fails_or_repeats() -> None:
    encoder = Recording()
    records = numbered(40)
    records[::5] = [Record("none.png", "red")] * 8
    run(records, encoder=encoder, transport=Web().transport())
    assert encoder.images == [4] * 8


def test_look_ahead_is_bounded_and_endless_records_are_fine() -> None:
    taken = 0

    def endless() -> Iterator[Record]:
        nonlocal taken
        for i in itertools.count():
            taken += 1
            yield Record(inline(COLOURS[i % 7]), f"red {i}")

    results = score_pairs(endless(), CONFIG, encoder=ColourEncoder())
    assert taken == 0
    for _ in range(100):
        assert next(results).error is None
    assert taken <= 100 + 8 * CONFIG.batch_size + 4 * CONFIG.batch_size
    results.close()


def test_large_rows_shorten_the_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.pipeline.run._AHEAD_BYTES", 10_000)
    taken = 0

    def endless() -> Iterator[Record]:
        nonlocal taken
        for i in itertools.count():
            taken += 1
            yield Record(inline("red") + f"#{i}", "red " * 500)

    results = score_pairs(endless(), CONFIG, encoder=ColourEncoder())
    next(results)
    results.close()
    assert taken <= 4 * CONFIG.batch_size + 10_000 // 2_000 + 1


def test_what_is_out_of_reach_is_forgotten() -> None:
    records = numbered(400)
    web, encoder = Web(), Recording()
    run([*records, records[0]], encoder=encoder, transport=web.transport())
    assert web.asked["/red/0.png"] == 2
    assert sum(encoder.images) == 400  # fetched again, but its content is still known


def test_the_next_batch_is_fetched_while_one_is_encoded() -> None:
    web = Web()
    ahead = threading.Event()

    @dataclass(frozen=True)
    class Waiting(ColourEncoder):
        def encode_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
            # The first batch is not finished before a picture of a later one has been asked for.
            assert ahead.wait(HANG_S), "nothing was fetched while the encoder was busy"
            return super().encode_pixels(pixels)

    inner = web.transport()

    def answer(request: httpx.Request) -> httpx.Response:
        if int(request.url.path.rpartition("/")[2].removesuffix(".png")) >= 8:
            ahead.set()
        return inner.handle_request(request)

    assert codes(run(numbered(20), encoder=Waiting(), transport=httpx.MockTransport(answer))) == [None] * 20


def test_closing_early_stops_the_threads(server: Server) -> None:
    server.routes["/hang"] = server.hang
    for i in range(4):  # of four contents, which fill a batch
        server.routes[f"/{i}.png"] = response(make_png(size=(8 + i, 8)))
    before = set(threading.enumerate())
    records = [Record(server.url(f"/{i}.png" if i < 4 else f"/hang?{i}"), "red") for i in range(30)]
    results = score_pairs(records, replace(CONFIG, timeout_s=600.0, limits=replace(CONFIG.limits, total_s=600.0)),
                          encoder=ColourEncoder())  # fmt: skip
    assert next(results).similarity == 1.0
    ending(results.close)
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("score-")]
    assert left == []


def test_a_process_that_ends_unfinished_does_not_wait(server: Server) -> None:
    server.routes["/hang"] = server.hang
    server.routes["/red.png"] = response(make_png())
    code = (
        "import httpx, sys\n"
        "httpx.Client.close = lambda self: print('closed')\n"
        "from text_image_similarity import Config, Limits, Record, score_pairs\n"
        "from text_image_similarity.encoders.testing import ColourEncoder\n"
        f"urls = ['{server.url('/red.png')}', *('{server.url('/hang')}?%d' % i for i in range(100))]\n"
        "limits = Limits(allow_private_addresses=True, total_s=600.0)\n"
        "config = Config(batch_size=1, timeout_s=600.0, limits=limits)\n"
        "results = score_pairs((Record(url, 'red') for url in urls), config, encoder=ColourEncoder())\n"
        "print(next(results).similarity)\n"
        "sys.is_finalizing = lambda: True\n"  # as at the end, when a lock of a dead thread is waited for in vain
        "results.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1.0\n"


def test_bad_settings_and_models_raise_at_once() -> None:
    with pytest.raises(ConfigError, match="cosine, unit, clip_score, clipscore"):
        Config(score="dot")  # type: ignore[arg-type]
    with pytest.raises(ModelUnavailableError):
        score_pairs(iter([]), Config(model="/no/such/folder"))


def test_an_exception_of_the_records_comes_after_the_rows_before_it() -> None:
    def records() -> Iterator[Record]:
        yield from [Record(inline("red"), "red")] * 5
        raise OSError("the source broke")

    results = score_pairs(records(), CONFIG, encoder=ColourEncoder())
    assert [next(results).similarity for _ in range(5)] == [1.0] * 5
    with pytest.raises(OSError, match="the source broke"):
        next(results)


def test_an_encoder_with_the_two_verbs_is_enough() -> None:
    class Bare:
        info, embed_dim = ModelInfo(model="bare"), 3

        def encode_image(self, images: Sequence[Image.Image]) -> np.ndarray:
            assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in images)
            return ColourEncoder().encode_image(images)

        def encode_text(self, texts: Sequence[str]) -> np.ndarray:
            return ColourEncoder().encode_text(texts)

    records = [Record(inline(colour), "yellow") for colour in COLOURS]
    assert [r.similarity for r in run(records, encoder=Bare())] == pytest.approx([r.similarity for r in run(records)])


def test_no_records_give_no_results() -> None:
    assert run([]) == []


def test_paths_and_base_dir(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(make_png())
    assert run([Record("red.png", "red")], replace(CONFIG, base_dir=tmp_path))[0].similarity == 1.0
    assert run([Record.of(tmp_path / "red.png", "red")])[0].similarity == 1.0


def test_a_caption_with_half_a_character_is_told_in_words() -> None:
    config = Config(model="mini")
    results = list(score_pairs([Record(inline("red"), "\ud800 red"), Record(inline("red"), "red")], config))
    assert (
        results[0].error == "encoder_error: the caption contains a lone surrogate (half of a UTF-16 pair); fix the row"
    )
    assert results[1] == next(score_pairs([Record(inline("red"), "red")], config))


def test_stats_add_up() -> None:
    stats = RunStats()
    run([*numbered(10), Record("none.png", "x"), Record("", "")], transport=Web().transport(), stats=stats)
    assert (stats.rows, stats.scored) == (12, 10)
    assert stats.failures == {"file_not_found": 1, "empty_caption": 1}
    assert set(stats.seconds) == {"fetch", "decode", "encode_image", "tokenize", "encode_text", "score"}
    assert all(seconds > 0 for seconds in stats.seconds.values())


def test_images_in_memory_score_like_files() -> None:
    picture = Image.open(io.BytesIO(make_png("yellow", (30, 20))))
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    cut = Image.open(io.BytesIO(make_png(size=(64, 64))[:80]))
    yellow = make_png("yellow")
    images: list[ImageLike | EncodedImage] = [
        picture,
        np.asarray(picture),
        yellow,
        bytearray(yellow),
        memoryview(yellow),
        picture,
        clear,
        b"none",
        cut,
    ]
    texts = ["red"] * 6 + ["white", "red", "red"]
    results = list(score_images(images, texts, CONFIG, encoder=ColourEncoder()))
    assert [result.similarity for result in results[:7]] == pytest.approx([0.70710677] * 6 + [1.0])
    assert codes(results[7:]) == ["not_an_image", "truncated"]
    with pytest.raises(ValueError, match="there are 1 images and 2 texts"):
        score_images([picture], ["red", "blue"], CONFIG, encoder=ColourEncoder())
    with pytest.raises(ValueError, match="argument 2"):
        list(score_images(iter([picture]), ["red", "blue"], CONFIG, encoder=ColourEncoder()))


def test_arrays_of_the_models_size_reach_it_as_they_are(tiny_clip: Path) -> None:
    config = Config(model=tiny_clip, batch_size=4)
    encoder = load_encoder(config)
    height, width = encoder.preprocess.side  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(6)]
    seen: list[np.ndarray] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(encoder, name)

        def encode_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
            seen.extend(pixels)
            return encoder.encode_pixels(pixels)

    texts = [f"a thing, number {number % 4}" for number in range(6)]
    found = list(score_images(arrays, texts, config, encoder=Watched()))
    assert len(seen) == 6
    assert all(one is other for one, other in zip(seen, arrays, strict=True))
    assert found == list(score_images(map(Image.fromarray, arrays), texts, config, encoder=encoder))
    larger = [np.pad(array, ((1, 1), (1, 1), (0, 0))) for array in arrays]
    assert found != list(score_images(larger, texts, config, encoder=encoder))
    small = replace(config, limits=Limits(max_side=height - 1))
    assert codes(list(score_images(arrays, texts, small, encoder=encoder))) == ["too_many_pixels"] * 6


def test_embeddings_come_in_order_with_errors_as_values() -> None:
    web = Web()
    red, green = np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)
    far = "http://photos.test/green/1.png"
    images: list[ImageSource] = [
        inline("red"),
        make_png("green"),
        far,
        "none.png",
        Image.new("RGB", (4, 4), "red"),
        far,
        b"text",
    ]
    found = list(embed_images(images, CONFIG, encoder=ColourEncoder(), transport=web.transport()))
    for vector, expected in zip(found, [red, green, green, None, red, green, None], strict=True):
        if expected is not None:
            np.testing.assert_array_equal(vector, expected)
    assert [error.code.value for error in found if isinstance(error, RowError)] == ["file_not_found", "not_an_image"]
    assert web.asked.total() == 1


def test_embedding_pictures_is_lazy_and_stops_its_threads() -> None:
    asked = itertools.count()
    endless = (inline(COLOURS[next(asked) % 7]) for _ in itertools.count())
    vectors = embed_images(endless, CONFIG, encoder=ColourEncoder())
    np.testing.assert_array_equal(next(vectors), [1, 0, 0])
    assert next(asked) < 100
    vectors.close()
    assert not any(thread.name.startswith("score-io") for thread in threading.enumerate())


def test_texts_are_embedded_in_batches() -> None:
    encoder = Recording()
    texts = ["red", "", "green", "blue", "red", " ", "cyan"]
    found = list(embed_texts(texts, CONFIG, encoder=encoder))
    assert [isinstance(outcome, RowError) for outcome in found] == [not text.strip() for text in texts]
    np.testing.assert_array_equal(found[3], [0, 0, 1])
    assert {outcome.code.value for outcome in found if isinstance(outcome, RowError)} == {"empty_caption"}
    assert encoder.texts == [["red", "green", "blue"], ["cyan"]]  # "red" is remembered


def test_all_doors_give_the_same_numbers(tiny_clip: Path, tmp_path: Path) -> None:
    config = Config(model=tiny_clip, batch_size=4)
    encoder = load_encoder(config)
    folder = ROOT / "challenge_set"
    paths = [
        folder / name for name in ("pets.jpg", "winter.jpg", "island.jpg", "two_wolves.png", "fruit.png", "party.gif")
    ]
    texts = [f"caption number {i}" for i in range(len(paths))]
    by_path = list(score_pairs([Record(str(p), t) for p, t in zip(paths, texts, strict=True)], config))
    as_bytes = list(score_images([p.read_bytes() for p in paths], texts, config, encoder=encoder))
    as_pictures = list(
        score_images([Image.open(io.BytesIO(p.read_bytes())) for p in paths], texts, config, encoder=encoder)
    )
    assert by_path == as_bytes == as_pictures
    for result, path, text in zip(by_path, paths, texts, strict=True):
        upright = decode(path.read_bytes(), config.limits)
        image, caption = encoder.encode_image([upright])[0], encoder.encode_text([text])[0]
        assert result.similarity == pytest.approx(float(image @ caption), abs=1e-5)


def test_a_result_holds_one_of_the_two() -> None:
    with pytest.raises(ValueError, match="either"):
        ScoreResult(similarity=0.5, error="timeout: late")
    with pytest.raises(ValueError, match="either"):
        ScoreResult()


def test_an_array_that_is_not_bytes_is_not_taken_for_pixels(tiny_clip: Path) -> None:
    config = Config(model=tiny_clip, device="cpu", backend="torch")
    with Scorer(config) as scorer:
        preprocess = getattr(scorer.encoder, "preprocess", None)
        assert isinstance(preprocess, Preprocess)
        height, width = preprocess.unchanged or (0, 0)
        floats: Any = np.ones((height, width, 3), np.float32)
        ((_, outcome),) = scorer.embed_tagged([(0, floats)])
    assert isinstance(outcome, RowError)


def test_pixels_are_let_go_before_results_are_used() -> None:
    seen: list[weakref.ref[np.ndarray]] = []

    class Noting(ColourEncoder):
        def encode_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
            seen.extend(map(weakref.ref, pixels))
            return super().encode_pixels(pixels)

    records = [Record(url=inline((number, 9, 9)), text="red") for number in range(9)]
    results = score_pairs(records, replace(CONFIG, batch_size=3), encoder=Noting())
    assert next(results).error is None
    assert len(seen) == 3
    assert [ref() for ref in seen] == [None] * 3
    results.close()
