"""The predictor: rankings a person can work out, ties, databases on disk, refusals."""

from __future__ import annotations

import json
import logging
import math
import os
import runpy
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import text_image_similarity.search.database as storage
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.server import Server, response
from text_image_similarity import (
    CaptionDatabase,
    Config,
    DatabaseError,
    ErrorCode,
    ImageDatabase,
    ItemMatch,
    Limits,
    ModelError,
    ModelInfo,
    Predictor,
    Record,
    RowError,
    UsageError,
    create_predictor,
    score_pairs,
)
from text_image_similarity.config import ScoreKind
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.metrics.calibration import Calibration
from text_image_similarity.preprocess import ImageLike
from text_image_similarity.search import ModelIdentity
from text_image_similarity.search.nearest import nearest

CONFIG = Config(batch_size=2, io_workers=2, retries=0, limits=Limits(allow_private_addresses=True))
HALF: Any = pytest.approx(0.7071, abs=1e-4)  # a named colour against one of the two it is made of


@pytest.fixture
def predictor() -> Predictor:
    return create_predictor(config=CONFIG, encoder=ColourEncoder())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a folder with five readable pictures, one broken one, and things that are no pictures."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    for name in ("red.png", "yellow.PNG", "blue.png", "sub/magenta.png", "sub/green.png", ".thumbnails/red.png"):
        (folder / name).write_bytes(make_png(Path(name).stem))
    (folder / "broken.png").write_bytes(make_png()[:40])
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(matches: Sequence[ItemMatch]) -> list[str]:
    return [Path(match.item).stem for match in matches]


def test_a_ranking_is_what_a_person_predicts(predictor: Predictor, photos: Path) -> None:
    paths = [photos / name for name in ("blue.png", "yellow.PNG", "red.png", "sub/magenta.png")]
    assert predictor.rank_images("something red", paths) == [
        ItemMatch(str(photos / "red.png"), 1.0),
        ItemMatch(str(photos / "yellow.PNG"), HALF),
        ItemMatch(str(photos / "sub/magenta.png"), HALF),
        ItemMatch(str(photos / "blue.png"), 0.0),
    ]
    assert names(predictor.rank_images("something red", paths, top_k=2)) == ["red", "yellow"]
    assert names(predictor.rank_images("red", paths[::-1], top_k=2)) == ["red", "magenta"]


def test_ranking_leaves_out_what_cannot_be_read_and_says_so(
    predictor: Predictor, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "text_image_similarity"):
        ranked = predictor.rank_images("red", [photos / "broken.png", photos / "red.png", "http:///"])
    assert names(ranked) == ["red"]
    assert [record.message.split(": ")[2] for record in caplog.records] == ["truncated", "invalid_url"]
    assert predictor.rank_images("red", []) == []
    assert predictor.image_database is None


def test_a_folder_becomes_a_database(predictor: Predictor, photos: Path) -> None:
    database = predictor.build_image_database(photos)
    assert [Path(path).relative_to(photos).as_posix() for path in database.paths] == [
        "blue.png",
        "red.png",
        "sub/green.png",
        "sub/magenta.png",
        "yellow.PNG",
    ]
    assert database.embeddings.shape == (5, 3)
    assert database.embeddings.dtype == np.float32
    assert len(database) == 5
    ((path, error),) = database.failures.items()
    assert path == str(photos / "broken.png")
    assert error.startswith("truncated: ")
    assert names(predictor.search_database("green", top_k=2)) == ["green", "yellow"]


def test_any_reference_will_do_and_each_counts_once(predictor: Predictor, photos: Path, server: Server) -> None:
    server.routes["/far.png"] = response(make_png("cyan"))
    inline = "data:image/png;base64," + b64encode(make_png("red") + bytes(5000)).decode()  # too long for a file's name
    far, missing = server.url("/far.png"), "http://127.0.0.1:1111/x.png"
    given: list[Any] = [
        inline,
        photos / "red.png",
        str(photos / "red.png"),
        far,
        missing,
        far,
        photos / "sub",
        missing,
        None,
    ]
    database = predictor.build_image_database(given)
    assert database.paths == (
        inline,
        str(photos / "red.png"),
        far,
        str(photos / "sub/green.png"),
        str(photos / "sub/magenta.png"),
    )
    assert {path: error.split(":")[0] for path, error in database.failures.items()} == {
        missing: "connect_error",
        "": "invalid_url",
    }


def test_folders_start_from_base_dir_and_obey_limits(photos: Path) -> None:
    based = create_predictor(config=replace(CONFIG, base_dir=photos), encoder=ColourEncoder())
    assert based.build_image_database("sub").paths == (str(Path("sub/green.png")), str(Path("sub/magenta.png")))
    closed = create_predictor(config=replace(CONFIG, limits=Limits(allow_local_files=False)), encoder=ColourEncoder())
    assert closed.build_image_database(photos).failures == {
        str(photos): "unsupported_scheme: local files are not allowed here"
    }
    assert closed.search_database("red") == []


def test_ties_keep_their_order_at_the_edge(predictor: Predictor, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(make_png("red" if number % 3 else "magenta"))
    predictor.build_image_database(tmp_path)
    reds = [f"{number:02}" for number in range(40) if number % 3]
    for top_k in (1, 5, 26):
        assert names(predictor.search_database("red", top_k)) == reds[:top_k]
    assert names(predictor.search_database("red", 28)) == [*reds, "00", "03"]


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_the_search_is_exact(count: int, top_k: int, seed: int) -> None:
    """Against a sort of every row, over rows that repeat and rows that are not finite."""
    random = np.random.default_rng(seed)
    distinct = random.normal(size=(max(1, count // 3), 257)).astype(np.float32)
    distinct /= np.linalg.norm(distinct, axis=1, keepdims=True)
    rows = distinct[random.integers(0, len(distinct), count)]
    rows[random.random(count) < 0.2] = random.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
    query = distinct[0]
    found, cosines = nearest(query, rows, top_k)
    finite = [i for i in range(count) if np.isfinite(rows[i]).all()]
    cosine = {i: float((rows[i] * query).sum().clip(-1, 1)) for i in finite}
    assert list(found) == sorted(finite, key=lambda i: (-cosine[i], i))[:top_k]
    assert list(cosines) == [cosine[int(i)] for i in found]


def test_rows_near_the_last_place_are_told_apart() -> None:
    """A matrix product rounds otherwise than a row's own sum, and must not decide who is in."""
    random = np.random.default_rng(0)
    query = np.full(257, 257**-0.5, np.float32)
    rows = query + random.normal(size=(5000, 257)).astype(np.float32) * 1e-4
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    exact = (rows * query).sum(axis=1).clip(-1, 1)
    assert list(nearest(query, rows, 100)[0]) == list(np.argsort(-exact, kind="stable")[:100])


def test_captions_for_a_picture(predictor: Predictor, photos: Path) -> None:
    captions = ["a blue sea", "a yellow and red fire", "", "a red door", "a blue sea"]
    database = predictor.build_caption_database(captions)
    assert database.captions == ("a blue sea", "a yellow and red fire", "a red door")
    assert database.failures == {"": "empty_caption: the caption is empty or missing"}
    best = ItemMatch("a red door", 1.0)
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    for picture in (photos / "red.png", str(photos / "red.png"), make_png("red"), red, Image.fromarray(red)):
        assert predictor.search_captions(picture, top_k=1) == [best]
    assert [match.item for match in predictor.search_captions(photos / "red.png")] == [
        "a red door",
        "a yellow and red fire",  # (2, 1, 0): 0.8944
        "a blue sea",
    ]
    assert predictor.build_caption_database("a red door").captions == ("a red door",)


def test_similarities_are_those_of_score_pairs(photos: Path) -> None:
    for kind in ("cosine", "unit", "clip_score"):
        config = replace(CONFIG, score=kind)
        predictor = create_predictor(config=config, encoder=ColourEncoder())
        found = predictor.rank_images("yellow", photos)
        scored = score_pairs([Record(m.item, "yellow") for m in found], config, encoder=ColourEncoder())
        assert [match.similarity for match in found] == [result.similarity for result in scored]
        assert names(found) == ["yellow", "red", "green", "magenta", "blue"]


def test_a_database_survives_a_round_trip(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    odd = photos / os.fsdecode(b"caf\xe9 \xe2\x82\xac.png")  # not UTF-8
    odd.write_bytes(make_png("white"))
    built = predictor.build_image_database([photos, "http:///"])
    built.save(tmp_path / "photos.safetensors")
    loaded = ImageDatabase.load(str(tmp_path / "photos.safetensors"))
    assert loaded.paths == built.paths
    assert str(odd) in loaded.paths
    assert loaded.failures == built.failures
    assert loaded.embeddings.tobytes() == built.embeddings.tobytes()
    fresh = create_predictor(config=CONFIG, encoder=ColourEncoder())
    for top_k in (1, 3, 99):
        assert fresh.search_database("cyan", top_k, loaded) == predictor.search_database("cyan", top_k)
    assert fresh.image_database is None  # searching another database does not adopt it
    fresh.image_database = loaded
    assert names(fresh.search_database("blue", 1)) == ["blue"]

    captions = predictor.build_caption_database(["a blue sea", "a red door", " "])
    captions.save(tmp_path / "captions.safetensors")
    again = CaptionDatabase.load(tmp_path / "captions.safetensors")
    assert (again.captions, again.failures) == (captions.captions, captions.failures)
    assert fresh.search_captions(make_png("blue"), 1, again) == [ItemMatch("a blue sea", 1.0)]


def test_an_empty_database_is_one(predictor: Predictor, tmp_path: Path) -> None:
    built = predictor.build_image_database([])
    built.save(tmp_path / "none.safetensors")
    assert ImageDatabase.load(tmp_path / "none.safetensors").embeddings.shape == (0, 3)
    assert predictor.search_database("red") == []


def test_saving_replaces_whole_files_only(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "photos.safetensors"
    predictor.build_image_database(photos / "red.png").save(target)
    before = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    larger = predictor.build_image_database(photos)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(DatabaseError, match="No space left"):
            larger.save(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [target.name]  # nothing left lying about
    with target.open("rb") as reader:  # another process, in the middle of the old file
        larger.save(target)
        assert reader.read() == before
    assert len(ImageDatabase.load(target)) == 5
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode  # readable to whom other files are


@pytest.mark.parametrize("where", ["folder", "folder/none/x", "file/x", ""])
def test_places_that_cannot_be_written(predictor: Predictor, tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    database = predictor.build_caption_database("red")
    with pytest.raises(DatabaseError, match="cannot be written"):
        database.save(tmp_path / where if where else "")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.fixture
def saved(predictor: Predictor, photos: Path, tmp_path: Path) -> Path:
    predictor.build_image_database(photos).save(tmp_path / "photos.safetensors")
    return tmp_path / "photos.safetensors"


def test_truncated_and_damaged_files_are_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:size])
        with pytest.raises(DatabaseError, match=r"broken\.safetensors is damaged"):
            ImageDatabase.load(broken)
    start = 8 + int.from_bytes(whole[:8], "little")  # where the tensors begin
    for place in (start, (start + len(whole)) // 2, len(whole) - 1):
        broken.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DatabaseError, match="checksum is wrong; build it again"):
            ImageDatabase.load(broken)


def test_files_that_are_no_database_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="No such file"):
        ImageDatabase.load(tmp_path / "none")
    with pytest.raises(DatabaseError, match="is a folder"):
        ImageDatabase.load(tmp_path)
    with pytest.raises(DatabaseError, match="is not a database of this version"):
        ImageDatabase.load(ROOT / "text_image_similarity" / "weights" / "mini" / "model.safetensors")
    with pytest.raises(DatabaseError, match="a database of images, not of captions"):
        CaptionDatabase.load(saved)


def _without_one_name(contents: dict[str, object]) -> None:
    contents["items"].pop()  # type: ignore[attr-defined]


def _numbers_for_names(contents: dict[str, object]) -> None:
    contents["items"] = [1, 2, 3, 4, 5]


def _no_failures(contents: dict[str, object]) -> None:
    del contents["failures"]


@pytest.mark.parametrize("spoil", [_without_one_name, _numbers_for_names, _no_failures])
def test_names_that_do_not_fit_are_refused(saved: Path, spoil: Callable[[dict[str, object]], None]) -> None:
    tensors = load_file(saved)
    contents = json.loads(tensors["contents"].tobytes())
    spoil(contents)
    _forge(saved, {**tensors, "contents": np.frombuffer(json.dumps(contents).encode(), np.uint8)})
    with pytest.raises(DatabaseError, match="not a usable database"):
        ImageDatabase.load(saved)


@pytest.mark.parametrize(
    "forged",
    [
        {"embeddings": np.zeros((5, 4), np.float32)},
        {"embeddings": np.zeros((5, 3), np.float64)},
        {"embeddings": np.zeros(15, np.float32)},
        {"probes": np.zeros((4, 2), np.float32)},
        {"contents": np.frombuffer(b"[" * 100_000, np.uint8)},
    ],
)
def test_vectors_that_do_not_fit_are_refused(saved: Path, forged: dict[str, np.ndarray]) -> None:
    _forge(saved, {**load_file(saved), **forged})
    with pytest.raises(DatabaseError, match="not a usable database"):
        ImageDatabase.load(saved)


def test_a_loaded_row_that_is_not_finite_is_never_found(saved: Path, predictor: Predictor) -> None:
    tensors = load_file(saved)
    rows = tensors["embeddings"].copy()
    rows[1], rows[4, 0] = np.nan, np.inf  # red and yellow
    _forge(saved, {**tensors, "embeddings": rows})
    assert names(predictor.search_database("red", 10, ImageDatabase.load(saved))) == ["magenta", "blue", "green"]


def _forge(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a database file whose checksum is right and whose content is not."""
    metadata = {"format": storage._FORMAT, "kind": "images", "model": "colour", "checksum": storage._checksum(tensors)}
    save_file(tensors, path, metadata)


@dataclass(frozen=True)
class Mirrored:
    """A colour encoder that takes red for blue: another model with the same name and the same size."""

    model: str = "colour"
    embed_dim: int = 3
    inner: ColourEncoder = field(default_factory=ColourEncoder)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(model=self.model)

    def encode_image(self, images: Sequence[ImageLike]) -> np.ndarray:
        return self.inner.encode_image(images)[:, ::-1]

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return self.inner.encode_text(texts)[:, ::-1]


@dataclass(frozen=True, kw_only=True)
class Named(ColourEncoder):
    """A colour encoder under another name."""

    model: str

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(model=self.model)


@dataclass(frozen=True)
class Wide(Mirrored):
    """A model of another size."""

    model: str = "wide"
    embed_dim: int = 4

    def encode_image(self, images: Sequence[ImageLike]) -> np.ndarray:
        return np.pad(self.inner.encode_image(images), ((0, 0), (0, 1)))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.pad(self.inner.encode_text(texts), ((0, 0), (0, 1)))


def test_a_database_of_another_model_is_refused(saved: Path, predictor: Predictor, photos: Path) -> None:
    database = ImageDatabase.load(saved)
    for other, said in ((Mirrored(), "colour (3 dim"), (Wide(), "wide (4 dim")):
        foreign = create_predictor(encoder=other)
        with pytest.raises(DatabaseError, match="created with colour") as refused:
            foreign.search_database("red", database=database)
        assert f"this predictor uses {said}" in str(refused.value)
        captions = foreign.build_caption_database("red")
        with pytest.raises(DatabaseError, match="cannot be compared"):
            predictor.search_captions(photos / "red.png", database=captions)
        assert foreign.search_captions(photos / "red.png", database=captions)
    moved = create_predictor(encoder=Named(model="a/new/name"))  # what a model is called does not matter
    assert names(moved.search_database("red", 1, database)) == ["red"]


@pytest.mark.slow
def test_a_model_is_known_by_what_it_does(tmp_path: Path) -> None:
    """The same weights elsewhere or in half precision are the same model; other weights under its name are not."""
    encoder = create_predictor("mini").encoder
    identity = ModelIdentity.of(encoder)
    with torch.autocast("cpu", torch.float16):
        assert ModelIdentity.of(encoder).same_as(identity)
    folder = shutil.copytree(model_folder("mini"), tmp_path / "model")
    on_torch = Config(backend="torch")  # other weights would be exported, which takes seconds
    for config in (None, on_torch):
        assert ModelIdentity.of(create_predictor(folder, config=config).encoder).same_as(identity)
    weights = load_file(folder / "model.safetensors")
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    random = np.random.default_rng(0)
    for name, values in weights.items():
        if np.issubdtype(values.dtype, np.floating):
            weights[name] = np.asarray(values * random.normal(1, 0.03, values.shape), values.dtype)
    save_file(weights, folder / "model.safetensors", metadata)
    trained_anew = ModelIdentity.of(create_predictor(folder, config=on_torch).encoder)
    assert trained_anew.embed_dim == identity.embed_dim
    assert not trained_anew.same_as(identity)


def test_mistakes_of_the_caller(predictor: Predictor, photos: Path) -> None:
    with pytest.raises(UsageError, match="call build_image_database"):
        predictor.search_database("red")
    with pytest.raises(UsageError, match="call build_caption_database"):
        predictor.search_captions(photos / "red.png")
    predictor.build_image_database(photos)
    predictor.build_caption_database("red")
    query: Any
    for query in ("", " \n", None):
        with pytest.raises(UsageError, match="the query is empty"):
            predictor.search_database(query)
        with pytest.raises(UsageError, match="the query is empty"):
            predictor.rank_images(query, photos)
    top_k: Any
    for top_k in (0, -1, 1.5, True, None):
        asks: list[Callable[[], object]] = [
            partial(predictor.search_database, "red", top_k),
            partial(predictor.rank_images, "red", photos, top_k),
            partial(predictor.search_captions, photos / "red.png", top_k),
        ]
        for ask in asks:
            with pytest.raises(UsageError, match=r"top_k=.* must be a whole number of at least 1"):
                ask()
    top_k = np.int64(2)
    assert len(predictor.search_database("red", top_k)) == 2


def test_a_query_picture_that_cannot_be_read_says_why(predictor: Predictor, photos: Path) -> None:
    predictor.build_caption_database("red")
    for picture, code in (
        (photos / "broken.png", ErrorCode.TRUNCATED),
        (photos / "none.png", ErrorCode.FILE_NOT_FOUND),
        (b"", ErrorCode.EMPTY_BODY),
    ):
        with pytest.raises(RowError) as failed:
            predictor.search_captions(picture)
        assert failed.value.code is code


class Failing:
    """An encoder that cannot read one word and gives no numbers for another."""

    info, embed_dim = ModelInfo(model="failing"), 3

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        if any("crash" in text for text in texts):
            raise ValueError("no such word")
        return np.stack([np.full(3, np.nan if "nan" in text else 3**-0.5, np.float32) for text in texts])

    def encode_image(self, images: Sequence[ImageLike]) -> np.ndarray:
        return ColourEncoder().encode_image(images)


def test_a_query_the_model_fails_on_says_so(photos: Path) -> None:
    predictor = create_predictor(config=CONFIG, encoder=Failing())  # the two verbs alone
    predictor.build_image_database(photos)
    for query, code in (("crash", ErrorCode.ENCODER_ERROR), ("nan", ErrorCode.NON_FINITE)):
        with pytest.raises(RowError) as failed:
            predictor.search_database(query)
        assert failed.value.code is code
    captions = predictor.build_caption_database(["good", "crash", "nan", "fine"])
    assert captions.captions == ("good", "fine")
    assert [error.split(":")[0] for error in captions.failures.values()] == ["encoder_error", "non_finite"]


def test_which_model_is_loaded(tmp_path: Path) -> None:
    assert create_predictor().config.model == "mini"
    assert create_predictor(config=Config(model="mini", batch_size=3)).config.batch_size == 3
    assert create_predictor("mini", config=Config(batch_size=3)).config == Config(model="mini", batch_size=3)


def test_a_calibrated_model_says_how_likely_a_match_is(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    curve = Calibration(
        slope=4.0,
        intercept=-2.0,
        prior=0.5,
        matching=9,
        mismatching=9,
        brier=0.1,
        calibration_error=0.1,
        model="colour",
    )
    assert curve.save(folder).name == "calibration.json"
    encoder = Named(model=str(folder))
    kinds: tuple[ScoreKind, ...] = ("cosine", "clip_score")
    for kind in kinds:  # the probability is the cosine's, whatever the score kind
        predictor = create_predictor(config=replace(CONFIG, score=kind), encoder=encoder)
        found = predictor.rank_images("red", [photos / "red.png", photos / "blue.png"])
        assert [match.probability for match in found] == [
            pytest.approx(1 / (1 + math.exp(-2))),  # cosine 1
            pytest.approx(1 / (1 + math.exp(2))),  # cosine 0
        ]
        predictor.build_caption_database("red")
        assert predictor.search_captions(photos / "red.png")[0].probability == found[0].probability
    (folder / "calibration.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a calibration"):
        create_predictor(encoder=encoder)
    (folder / "calibration.json").unlink()
    assert create_predictor(encoder=encoder).rank_images("red", photos)[0].probability is None


def test_mini_finds_the_right_pictures_and_captions(tmp_path: Path) -> None:
    predictor = create_predictor("mini")
    database = predictor.build_image_database(ROOT / "challenge_set")
    assert len(database) == 49
    assert set(database.failures) == {str(ROOT / "challenge_set" / "not_a_picture.jpg")}
    assert "sailing" in names(predictor.search_database("a sailboat and a dolphin under the sun", 3))
    predictor.build_caption_database(["a sailboat and a dolphin under the sun", "a plate with a hamburger"])
    best = predictor.search_captions(ROOT / "challenge_set" / "sailing.jpg", 1)
    assert best[0].item.startswith("a sailboat")
    database.save(tmp_path / "set.safetensors")
    with pytest.raises(DatabaseError, match=r"created with mini \(\d+ dimensions\), but this predictor uses colour"):
        create_predictor(encoder=ColourEncoder()).search_database(
            "red", database=ImageDatabase.load(tmp_path / "set.safetensors")
        )


def test_threads_may_share_a_predictor(predictor: Predictor, photos: Path) -> None:
    database = predictor.build_image_database(photos)
    found: list[list[str]] = []
    threads = [
        Thread(target=lambda: found.append(names(predictor.search_database("blue", 2, database)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["blue", "magenta"]] * 8


def test_the_demo_runs(tmp_path: Path) -> None:
    demo = ROOT / "examples" / "inference_demo.py"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", demo, "a sailboat and a dolphin under the sun"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sailing.jpg" in done.stdout
    assert "not_a_picture.jpg: not_an_image" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predictor.py", "--pictures", "200", "--repeats", "2"])
    runpy.run_path(str(ROOT / "benchmarks" / "predictor.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("min", "median", "max", "search 200 images", "encode a text"))
