"""What programmers hand in: references, images and texts in every form that means one thing; a clear error for the rest."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from tests.support.images import make_png
from text_image_similarity import (
    Config,
    ConfigError,
    InputTypeError,
    LocalEngine,
    ModelNameError,
    Record,
    Scorer,
    ScoreResult,
    TableOptions,
    Term,
    TrainConfig,
    UsageError,
    classify,
    create_predictor,
    embed_images,
    embed_texts,
    evaluate,
    evaluate_ratings,
    image_similarity,
    load_encoder,
    read_dataset,
    score,
    score_csv,
    score_frame,
    score_images,
    score_pairs,
    score_table,
    similarity_matrix,
    similarity_tiles,
    text_similarity,
    train,
)
from text_image_similarity.checks import SETTINGS
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline import portable
from text_image_similarity.pipeline import progress as bars
from text_image_similarity.pipeline.inputs import as_image, check_pairs
from text_image_similarity.pipeline.sources import PlainColumns, rows_of
from text_image_similarity.records import is_plain

CONFIG = Config(retries=0)
RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
TABLE = pd.DataFrame({"url": ["a.png"], "caption": ["red"]})
Call = Callable[[Any], object]


def pairs(records: Any) -> list[ScoreResult]:
    return list(score_pairs(records, CONFIG, encoder=ColourEncoder()))


def images(given: Any, texts: Any = ("red",)) -> list[ScoreResult]:
    return list(score_images(given, texts, CONFIG, encoder=ColourEncoder()))


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(make_png())
    return path


def test_an_image_may_be_given_in_every_form_that_means_one_thing(red: Path) -> None:
    content = red.read_bytes()
    forms: list[Any] = [red, str(red), red.as_uri(), np.str_(red), content, RED, Image.fromarray(RED)]
    forms += [bytearray(content), memoryview(content), {"bytes": content}, {"bytes": None, "path": str(red)}]
    forms += [RED / 255, (RED / 255).astype(np.float16), RED.transpose(2, 0, 1), (RED / 255).transpose(2, 0, 1)]
    tensor = torch.from_numpy(RED / 255).permute(2, 0, 1)
    texts = ["red"] * len(forms)
    for given in (forms, tuple(forms), iter(forms), np.array(forms, object), pd.Series(forms)):
        assert [result.similarity for result in images(given, np.array(texts))] == [1.0] * len(forms)
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        assert scorer.similarity_matrix(forms, pd.Series(texts)).tolist() == [[1.0] * len(forms)] * len(forms)
    tensors = [tensor, tensor.clone().requires_grad_(), tensor.bfloat16(), torch.from_numpy(RED)]
    assert [result.similarity for result in images(tensors, ["red"] * 4)] == [1.0] * 4
    for batch in (np.stack([RED, RED]), torch.stack([tensor, tensor])):
        assert [result.similarity for result in images(batch, ["red", "red"])] == [1.0, 1.0]
    with pytest.raises(ValueError, match="there are 2 images and 1 texts"):
        images(torch.stack([tensor, tensor]), ["red"])
    image: Any = tensor
    np.testing.assert_array_equal(cast(Any, Term(image=image).image), RED)


def test_floats_are_rounded_to_the_nearest_byte() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    below = np.maximum(every - 0.4, 0) / 255
    for given in (below, below.astype(np.float32), torch.from_numpy(below).float().permute(2, 0, 1)):
        np.testing.assert_array_equal(as_image(given, "image"), every)


@pytest.mark.parametrize("missing", [pd.NA, pd.NaT, np.float32("nan")])
def test_every_kind_of_missing_value_fails_its_row_alone(red: Path, missing: Any) -> None:
    assert [result.code for result in images([missing, red], ["red"] * 2)] == ["invalid_url", None]


def test_a_class_or_an_empty_array_is_a_mistake(red: Path) -> None:
    with pytest.raises(InputTypeError, match=r"it has no pixels: its shape is \(0, 8, 3\)"):
        images([np.zeros((0, 8, 3), np.uint8)], ["red"])
    with pytest.raises(InputTypeError, match=r"records\[0\] must be a Record"):
        list(pairs([Record]))
    with pytest.raises(InputTypeError, match="encoder must be an Encoder"):
        Scorer(CONFIG, encoder=ColourEncoder)  # type: ignore[arg-type]
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        for rows in ([Record(str(red), "red")], {"a": 1}, pd.DataFrame({"a": [1]})):
            with pytest.raises(InputTypeError, match="rows"):
                list(scorer.score_tagged(rows))  # type: ignore[arg-type]
    for given in ({"col_url": ["url"]}, {"col_text": 1}, {"engine": LocalEngine}):
        with pytest.raises(InputTypeError, match=next(iter(given))):
            score_csv("in.csv", "out.csv", CONFIG, **given)


def test_a_missing_image_fails_its_row_alone(red: Path) -> None:
    results = images([None, red, float("nan")], ["red"] * 3)
    assert [result.error for result in results] == [
        "invalid_url: the image is empty or missing",
        None,
        "invalid_url: the image is missing (nan)",
    ]


# What is not an image, and what the error says about it.
NO_IMAGE = [
    (
        RED * 1.0,
        "a numpy ndarray of shape (8, 8, 3) and type float64; floats must be from 0 to 1, but these are from 0 to 255",
    ),
    (
        RED * np.nan,
        "a numpy ndarray of shape (8, 8, 3) and type float64; floats must be from 0 to 1, but these are from nan",
    ),
    (RED.astype(int), "a numpy ndarray of shape (8, 8, 3) and type int64; use uint8 from 0 to 255, or floats"),
    (RED[..., 0], "a numpy ndarray of shape (8, 8) and type uint8; an RGB image has the shape"),
    (
        np.zeros((3, 8, 3)),
        "a numpy ndarray of shape (3, 8, 3) and type float64; its shape (3, 8, 3) does not show which axis",
    ),
    (torch.zeros(4, 8, 8), "a torch Tensor of shape (4, 8, 8) and type torch.float32; an RGB image has the shape"),
    (torch.zeros(3, 8, 8) - 1, "a torch Tensor of shape (3, 8, 8) and type torch.float32; floats must be from 0 to 1"),
    ({"image": make_png()}, "a dict; a dict that holds an image has the key 'bytes' (an encoded file) or 'path'"),
    (io.BytesIO(make_png()), "an io BytesIO; pass the result of its read()"),
    ([RED], "a list"),
    (5, "an int"),
]


@pytest.mark.parametrize(("given", "named"), NO_IMAGE)
def test_what_is_no_image_raises_at_once(given: Any, named: str) -> None:
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer, create_predictor(encoder=ColourEncoder()) as predictor:
        predictor.build_caption_database(["red"])
        calls: list[Callable[[], object]] = [
            lambda: score_images([RED, given], ["red"] * 2, CONFIG, encoder=ColourEncoder()),
            lambda: embed_images([RED, given], CONFIG, encoder=ColourEncoder()),
            lambda: scorer.score_images([RED, given], ["red"] * 2),
            lambda: scorer.embed_images([RED, given]),
            lambda: scorer.similarity_matrix([RED, given], ["red"]),
            lambda: list(scorer.embed_images(iter([RED, given]))),
            lambda: predictor.search_captions(given),
        ]
        for call in calls:
            with pytest.raises(InputTypeError, match=r"^image(s\[1\])? must be a PIL image, ") as caught:
                call()
            assert f"not {named}" in str(caught.value)


def test_a_record_may_be_a_tuple_or_a_mapping(red: Path) -> None:
    url = str(red)
    given: list[Any] = [
        (url, "red"),
        [red.as_uri(), "red"],
        {"url": url, "text": "red"},
        {"image": url, "caption": "red"},
        Record(url, "red"),
    ]
    for records in (given, iter(given), tuple(given)):
        assert [result.similarity for result in pairs(records)] == [1.0] * len(given)
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        assert len(list(scorer.score_pairs(given))) == len(given)
    both = Config(score="ref_clipscore")
    for row in ((url, "red", ["a red dot"]), {"url": url, "text": "red", "references": ["a red dot"]}):
        (found,) = score_pairs([row], both, encoder=ColourEncoder())
        assert found == next(score_pairs([Record(url, "red", ("a red dot",))], both, encoder=ColourEncoder()))


def test_scores_come_as_an_array(red: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = ColourEncoder()
    assert score([red, RED], ["red", "blue"], CONFIG, encoder=encoder).tolist() == [1.0, 0.0]
    assert score(RED, ["red", "blue"], encoder=encoder).tolist() == [1.0, 0.0]
    assert score([str(red), RED], "red", encoder=encoder).tolist() == [1.0, 1.0]
    assert score(red, "red", Config(score="unit"), encoder=encoder).tolist() == [1.0]
    assert score([], [], encoder=encoder).shape == (0,)
    assert score(iter([RED]), (text for text in ("red", "red")), encoder=encoder).dtype == np.float32
    assert not caplog.messages
    found = score([red, "none.png", "none.png"], ["red", "red", "red"], encoder=encoder)
    assert found[0] == 1.0
    assert np.isnan(found[1:]).all()
    assert caplog.messages == [
        "2 of 3 pairs have no score; the first of them is pair 1: file_not_found: none.png: No such file or directory"
    ]
    with pytest.raises(ValueError, match="there are 2 images and 3 texts"):
        score([red, red], ["red"] * 3, encoder=encoder)
    with pytest.raises(InputTypeError, match=r"images\[0\] must be a PIL image, .* not a torch Tensor"):
        score([torch.zeros(3, 8, 8) - 1], "red", encoder=encoder)  # type: ignore[list-item]


def test_a_models_name_stands_for_its_settings(red: Path) -> None:
    expected = [next(score_pairs([Record(str(red), "red")], Config(model="mini"))).similarity]
    assert score(red, "red", "mini").tolist() == pytest.approx(expected)
    for config in ("mini", model_folder("mini")):
        with Scorer(config) as scorer:
            assert scorer.config == Config(model=config)
    assert Scorer(encoder=ColourEncoder()).config == Config()
    with pytest.raises(ModelNameError, match="did you mean 'mini'"):
        score(red, "red", "minni")


def test_a_bar_shows_how_far_the_work_is(red: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(str(red), "red")] * 3
    assert [result.similarity for result in score_pairs(rows, encoder=ColourEncoder(), progress=True)] == [1.0] * 3
    assert "3/3" in capsys.readouterr().err
    score([red] * 3, "red", encoder=ColourEncoder(), progress=True)
    assert "3/3" in capsys.readouterr().err
    table = red.parent / "in.csv"
    table.write_text("url,caption\nred.png,red\nnone.png,red\n")
    for progress, shown in ((True, True), (None, False), (False, False)):
        engine, options = LocalEngine(encoder=ColourEncoder()), TableOptions(start="restart")
        score_table(table, red.parent / "out.csv", engine=engine, options=options, progress=progress)
        said = capsys.readouterr().err
        assert ("2/2" in said, "failed=1" in said) == (shown, shown)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("a.png",), r"records\[1\] must be a Record, not a tuple; use Record\(image, text\) or \(image, text\)"),
        (
            {"file": "a.png", "text": "red"},
            r"records\[1\] must be a Record, not a dict; its keys must be 'url' and 'text'",
        ),
        ("a.png", r"records\[1\] must be a Record, not a str"),
        (None, r"records\[1\] must be a Record, not None"),
        (Record(Image.fromarray(RED), "red"), r"records\[1\].url must be a path, a URL or an encoded file's bytes, not a PIL image; score images"),  # type: ignore[arg-type]
        (Record(io.BytesIO(), "red"), r"records\[1\].url must be a path, a URL or an encoded file's bytes, not an io BytesIO"),  # type: ignore[arg-type]
        (Record("red", Image.fromarray(RED)), r"records\[1\].text must be a string, not a PIL image"),  # type: ignore[arg-type]
        (Record(RED, "red"), r"records\[1\].url must be a path, a URL or an encoded file's bytes, not a numpy ndarray of shape \(8, 8, 3\)"),  # type: ignore[arg-type]
        (Record(torch.zeros(3, 8), "red"), r"records\[1\].url must be a path, a URL or an encoded file's bytes, not a torch Tensor"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_record_raises_at_once(given: Any, named: str, red: Path) -> None:
    good = Record(str(red), "red")
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        with pytest.raises(InputTypeError, match=named):
            score_pairs([good, given], CONFIG)
        with pytest.raises(InputTypeError, match=named):
            scorer.score_pairs([good, given])
        results = scorer.score_pairs(iter([good, given]))
        assert next(results).similarity == 1.0  # what comes before it has its result
        with pytest.raises(InputTypeError, match=named):
            next(results)
        with pytest.raises(InputTypeError, match="a record"):
            list(scorer.score_tagged([(1, given)]))


@pytest.mark.parametrize("given", [Image.fromarray(RED), RED, b"red", io.StringIO("red"), torch.zeros(2, 2)])
def test_what_is_no_text_raises_at_once(given: Any) -> None:
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        calls: list[Callable[[], object]] = [
            lambda: score_images([RED, RED], ["red", given], CONFIG),
            lambda: embed_texts(["red", given], CONFIG),
            lambda: scorer.embed_texts(["red", given]),
            lambda: scorer.similarity_matrix([RED], ["red", given]),
        ]
        for call in calls:
            with pytest.raises(InputTypeError, match=r"^texts\[1\] must be a string, not "):
                call()
        assert [type(one).__name__ for one in scorer.embed_texts(["red", None, ["red"]])] == ["ndarray", *["RowError"] * 2]  # type: ignore[list-item]


@pytest.mark.parametrize("text", ["a dog", " a dog", "\N{SNOWMAN}", "", " ", "\N{HANGUL FILLER}"])
@pytest.mark.parametrize(
    "url", ["a.jpg", " a.jpg", "\N{SNOWMAN}.jpg", "", "\t", "x" * 256, "x" * 257, b"GIF89a\0", b"a.jpg"]
)
def test_a_plain_record_makes_the_row_that_any_other_makes(url: Any, text: str) -> None:
    other: Any = SimpleNamespace(url=url, text=text, references=("a pet",))  # takes no shortcut
    found, expected = (list(rows_of([(7, record)])) for record in (Record(url, text, ("a pet",)), other))
    assert list(map(repr, found)) == list(map(repr, expected))


ODD = (None, "", " x", "\x7f", "é", 5, float("nan"), np.str_("x"), b"x")


@pytest.mark.parametrize(
    ("url", "text"),
    [("a" * 256, "x"), ("!", "~"), *((odd, "x") for odd in (*ODD, "a" * 257)), *(("a", odd) for odd in ODD)],
)
def test_columns_of_plain_rows_make_the_rows_that_records_make(url: Any, text: Any) -> None:
    """A row that needs a closer look sends its whole part the way of records."""
    images, texts = ["a.png", url, "z.png"], ["a dot", text, "z"]
    records = [("tag", Record(*row)) for row in zip(images, texts, strict=True)]
    columns = PlainColumns.of("tag", images, texts)
    assert (columns is None) == (not (is_plain(url) and is_plain(text) and len(url) <= 256))
    if columns is not None:
        assert list(columns) == records
        assert list(rows_of(columns)) == list(rows_of(records))


def test_what_has_a_reference_and_a_text_counts_as_a_record(red: Path) -> None:
    rows = pd.DataFrame({"url": [str(red)], "text": ["red"]}).itertuples()
    assert [result.similarity for result in pairs(rows)] == [1.0]
    assert [result.similarity for result in pairs([SimpleNamespace(url=red, text="red")])] == [1.0]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "is empty or missing"),
        (float("nan"), "is missing (nan)"),
        (["a.png"], "is a list; one row per image is needed"),
        (True, "is True, not text"),
    ],
)
def test_a_reference_that_is_not_text_fails_its_row_alone(url: Any, reason: str) -> None:
    records = [Record("", "red"), Record(url, "red"), Record(("a.png",), "red")]  # type: ignore[arg-type]
    assert [result.error for result in pairs(records)] == [
        "invalid_url: the image is empty or missing",
        f"invalid_url: the image {reason}",
        "invalid_url: the image is a tuple; one row per image is needed",
    ]


@pytest.mark.parametrize(
    "given", ["red", b"red", Path("red.png"), {"red": 1}, None, 5, TABLE, RED, Image.fromarray(RED), Record("a", "b")]
)
def test_one_value_where_many_are_expected_raises_at_once(given: Any) -> None:
    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        calls: dict[str, Call] = {
            "records": lambda x: score_pairs(x, CONFIG),
            "images": lambda x: score_images(x, ["red"], CONFIG),
            "texts": lambda x: score_images([RED], x, CONFIG),
        }
        more: list[tuple[str, Call]] = [
            *calls.items(),
            ("images", lambda x: embed_images(x, CONFIG)),
            ("texts", lambda x: embed_texts(x, CONFIG)),
            ("records", scorer.score_pairs),
            ("images", scorer.embed_images),
            ("texts", scorer.embed_texts),
            ("texts", lambda x: scorer.similarity_matrix([RED], x)),
        ]
        for name, call in more:
            with pytest.raises(InputTypeError, match=f"^{name} must be a list or another iterable of {name}, not "):
                call(given)


def test_a_search_takes_references_and_texts_alone(red: Path) -> None:
    with create_predictor(encoder=ColourEncoder()) as predictor:
        assert predictor.rank_images("red", np.array([str(red)]))[0].similarity == 1.0
        for paths in ([Image.fromarray(RED)], [RED], [b"red.png"], Image.fromarray(RED), b"red.png", [5], None, TABLE):
            with pytest.raises(InputTypeError, match=r"^paths(\[0\])? must be"):
                predictor.rank_images("red", paths)  # type: ignore[arg-type]
            with pytest.raises(InputTypeError, match=r"^paths(\[0\])? must be"):
                predictor.build_image_database(paths)  # type: ignore[arg-type]
        for captions in ([["red"]], [5], [b"red"], b"red", TABLE):
            with pytest.raises(InputTypeError, match=r"^captions(\[0\])? must be"):
                predictor.build_caption_database(captions)  # type: ignore[arg-type]
        for query in ([str(red)], 5, Image.fromarray(RED)):
            with pytest.raises(InputTypeError, match="the query must be a string"):
                predictor.rank_images(query, red)  # type: ignore[arg-type]
        with pytest.raises(InputTypeError, match="database must be of type ImageDatabase, not a str"):
            predictor.search_database("red", database="photos.safetensors")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        *(
            Scorer,
            load_encoder,
            score_pairs,
            score_images,
            score_table,
            score_frame,
            evaluate,
            evaluate_ratings,
            classify,
        ),
        *(image_similarity, text_similarity, similarity_matrix, similarity_tiles, embed_images, embed_texts),
    ],
)
def test_a_setting_that_is_given_to_a_function_is_told_where_it_goes(call: Callable[..., object]) -> None:
    said = rf"{call.__name__}\(\) takes settings as config: write config=Config\(model='mini'\) or, for short, config='mini'"
    with pytest.raises(InputTypeError, match=said):
        call(model="mini")
    with pytest.raises(InputTypeError, match=r"write config=Config\(model='mini', device='cuda'\)$"):
        call([], [], device="cuda", model="mini")


def test_settings_that_functions_are_given_exist() -> None:
    assert set(SETTINGS) <= {field.name for field in fields(Config)}


CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: Scorer(7), "config must be a Config, such as Config(model='mini'), not an int"),  # type: ignore[arg-type]
    (lambda: load_encoder(7), "config must be a Config"),  # type: ignore[arg-type]
    (lambda: score_pairs([], {}), "config must be a Config"),  # type: ignore[arg-type]
    (lambda: evaluate("a.csv", {}), "config must be a Config"),  # type: ignore[arg-type]
    (lambda: evaluate_ratings("a.csv", {}), "config must be a Config"),  # type: ignore[arg-type]
    (lambda: score_table("a.csv", "b.csv", 7), "config must be a Config"),  # type: ignore[arg-type]
    (lambda: create_predictor(config=7), "config must be a Config"),  # type: ignore[arg-type]
    (lambda: portable({}), "config must be a Config"),  # type: ignore[arg-type]
    (lambda: train("a.csv", "b", CONFIG), "config must be a TrainConfig"),  # type: ignore[arg-type]
    (lambda: score_pairs([], CONFIG, encoder="mini"), "encoder must be an Encoder, such as one from load_encoder"),  # type: ignore[arg-type]
    (lambda: score_table(TABLE, "b.csv", CONFIG), "in_path must be a path or a URL, not a pandas DataFrame; pass it to score_frame"),  # type: ignore[arg-type]
    (lambda: score_table(b"a.csv", "b.csv", CONFIG), "in_path must be a path or a URL, not bytes"),  # type: ignore[arg-type]
    (lambda: score_table("a.csv", None, CONFIG), "out_path must be a path or a URL, not None"),  # type: ignore[arg-type]
    (lambda: score_table("a.csv", "b.csv", CONFIG, engine="spark"), "engine must be an engine"),  # type: ignore[arg-type]
    (lambda: score_table("a.csv", "b.csv", CONFIG, options={}), "options must be of type TableOptions"),  # type: ignore[arg-type]
    (lambda: evaluate(TABLE, CONFIG), "source must be a path or a URL, not a pandas DataFrame"),  # type: ignore[arg-type]
    (lambda: evaluate_ratings(TABLE, CONFIG), "table must be a path or a URL"),  # type: ignore[arg-type]
    (lambda: read_dataset([("a.png", "red")]), "source must be a path or a URL, not a list"),  # type: ignore[arg-type]
    (lambda: train(TABLE, "b", TrainConfig()), "source must be a path or a URL"),  # type: ignore[arg-type]
    (lambda: train("a.csv", None, TrainConfig()), "out must be a path or a URL"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_arguments_of_another_type_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputTypeError) as caught:
        call()
    assert message in str(caught.value)
    assert isinstance(caught.value, (TypeError, UsageError))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as Spark and Ray hand it back


def test_a_single_text_is_not_a_list_of_letters() -> None:
    with pytest.raises(InputTypeError, match="texts must be a list of texts, not a str; put it in a list"):
        load_encoder(Config(model="mini")).encode_text("a dog")


def test_what_comes_from_a_generator_is_read_once() -> None:
    pulled: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            pulled.append(1)
            yield RED

    with Scorer(CONFIG, encoder=ColourEncoder()) as scorer:
        results = scorer.embed_images(endless())
        next(results)
        results.close()
    assert len(pulled) < 10_000


def test_unequal_numbers_are_an_error_of_this_package() -> None:
    with pytest.raises(ConfigError, match="there are 3 images and 2 texts"):
        check_pairs(["a.png"] * 3, ["a", "b"])


def test_without_widgets_a_notebook_gets_a_bar_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "is_installed", lambda name: name != "ipywidgets")
    with closing(bars._bar(1, "rows")) as bar:
        assert type(bar) is tqdm
