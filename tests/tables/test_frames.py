"""Frames in memory: scored like tables, and back as they were with two more columns."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.images import inline, make_png
from text_image_similarity import (
    Config,
    ConfigError,
    InputTypeError,
    Record,
    UsageError,
    score_frame,
    score_pairs,
    score_table,
)
from text_image_similarity.encoders.testing import ColourEncoder

RED, LIME = make_png("red"), make_png("lime")
CONFIG = Config(batch_size=4, io_workers=2)
ROWS = {
    "id": [7, 8, 9, 9],
    "url": [inline("red"), inline("lime"), None, "none.png"],
    "caption": ["red", "red", "red", None],
}
SCORES = [1.0, 0.0, None, None]
CODES = ["", "", "invalid_url", "empty_caption"]


def score(df: Any, *columns: str, **options: Any) -> Any:
    return score_frame(df, CONFIG, *columns, encoder=ColourEncoder(), **options)


FRAMES: dict[str, Any] = {
    "pandas": pd.DataFrame(ROWS),
    "pandas of Arrow": pd.DataFrame(ROWS).convert_dtypes(dtype_backend="pyarrow"),
    "pandas of objects": pd.DataFrame(ROWS, dtype=object),
    "polars": pl.DataFrame(ROWS),
    "arrow": pa.table(ROWS),
    "chunks": pa.concat_tables([pa.table(ROWS).slice(0, 1), pa.table(ROWS).slice(1)]),
    "batch": pa.record_batch(ROWS),
    "reader": pa.table(ROWS),
    "hub": datasets.Dataset.from_dict(ROWS),
    "capsule": SimpleNamespace(__arrow_c_stream__=pa.table(ROWS).__arrow_c_stream__),
    "interchange": SimpleNamespace(__dataframe__=pa.table(ROWS).__dataframe__),
}


def as_arrow(frame: Any) -> pa.Table:
    if isinstance(frame, pd.DataFrame):
        return pa.Table.from_pandas(frame, preserve_index=False)
    if isinstance(frame, pl.DataFrame):
        return frame.to_arrow()
    if isinstance(frame, datasets.Dataset):
        return frame.with_format("arrow")[:]
    if isinstance(frame, pa.RecordBatchReader):
        return frame.read_all()
    return pa.table(frame) if not isinstance(frame, SimpleNamespace) else pa.table(ROWS)


@pytest.mark.parametrize("kind", FRAMES)
def test_every_kind_of_frame_comes_back_with_its_scores(kind: str) -> None:
    given = FRAMES[kind].to_reader() if kind == "reader" else FRAMES[kind]
    before = None if kind == "reader" else as_arrow(given)
    scored = score(given)
    assert type(scored) is (pa.Table if isinstance(given, SimpleNamespace) else type(given))
    found = as_arrow(scored)
    assert found["similarity"].to_pylist() == SCORES
    assert [(error or "").partition(":")[0] for error in found["error"].to_pylist()] == CODES
    assert found.column_names == [*ROWS, "similarity", "error"]
    if before is not None:
        assert as_arrow(given) == before
        assert found.select(list(ROWS)).to_pylist() == before.to_pylist()


IMAGES: dict[str, list[Any]] = {
    "bytes": [RED, LIME, None, b"a.jpg"],
    "structs": [
        {"bytes": RED, "path": None},
        {"bytes": LIME, "path": "x"},
        {"bytes": None, "path": None},
        {"bytes": b"a.jpg", "path": ""},
    ],
}


@pytest.mark.parametrize("cells", IMAGES)
@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, datasets.Dataset.from_dict])
def test_images_in_a_frame_are_scored(make: Any, cells: str) -> None:
    found = as_arrow(score(make({"image": IMAGES[cells], "text": ["red"] * 4}), "image", "text"))
    assert found["similarity"].to_pylist() == SCORES
    assert [(error or "").partition(":")[0] for error in found["error"].to_pylist()] == [
        "",
        "",
        "invalid_url",
        "not_an_image",
    ]


def test_the_hubs_images_are_not_decoded_on_the_way() -> None:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = {"image": [{"bytes": RED, "path": None}, None], "caption": ["red", "red"]}
    scored = score(datasets.Dataset.from_dict(rows, features=features), "image")
    assert scored["similarity"][:] == [1.0, None]
    assert scored.features["image"] == datasets.Image()
    assert scored[0]["image"].size == (16, 16)


TEXTS = st.lists(st.sampled_from([inline("red"), "none.png", "", None]), max_size=6)
DTYPES: dict[str, list[Any]] = {
    "int8": [1, 2],
    "UInt16": [3, None],
    "float32": [0.5, None],
    "string": ["a", None],
    "str": ["a", None],
    "category": ["x", "y"],
    "boolean": [True, None],
    "datetime64[us]": [np.datetime64("2020-01-01"), None],
    "timedelta64[ns]": [np.timedelta64(1, "s"), None],
    "int64[pyarrow]": [1, None],
    "string[pyarrow]": ["a", None],
    "large_string[pyarrow]": ["a", None],
    "binary[pyarrow]": [b"a", None],
    "object": [[1], None],
}
INDICES = ["range", "texts", "several", "times", "twice"]


def index_of(kind: str, count: int) -> pd.Index[Any]:
    match kind:
        case "texts":
            return pd.Index([f"r{i}" for i in range(count)], name="row")
        case "several":
            return pd.MultiIndex.from_arrays([range(count), ["a"] * count], names=["n", None])
        case "times":
            return pd.date_range("2020-01-01", periods=count, freq="D")
        case "twice":
            return pd.Index([1] * count)
    return pd.RangeIndex(5, 5 + count)


@settings(max_examples=int(os.environ.get("FRAMES", "100")), suppress_health_check=list(HealthCheck))
@given(
    urls=TEXTS,
    columns=st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.randoms(use_true_random=False)), max_size=5),
    index=st.sampled_from(INDICES),
    of=st.sampled_from(["object", "str", "string", "string[pyarrow]"]),
    back=st.sampled_from(["pandas", "polars", "arrow"]),
)
def test_types_and_index_come_back(urls: list[str | None], columns: list[Any], index: str, of: str, back: str) -> None:
    count = len(urls)
    data: dict[str, Any] = {
        f"c{i}": pd.Series([rnd.choice(DTYPES[dtype]) for _ in urls], dtype=dtype)
        for i, (dtype, rnd) in enumerate(columns)
    }
    df = pd.DataFrame({**data, "url": pd.Series(urls, dtype=of), "caption": pd.Series(["red"] * count, dtype=of)})
    df.index = index_of(index, count)
    frame: Any = df
    if back != "pandas":
        plain = df.drop(columns=[name for name in data if df[name].dtype == object])
        frame = pa.Table.from_pandas(plain, preserve_index=False)
        frame = pl.from_arrow(frame) if back == "polars" else frame
    scored = score(frame)
    wanted = [1.0 if url == inline("red") else None for url in urls]
    if back == "pandas":
        pd.testing.assert_frame_equal(scored[df.columns], df)
        assert scored.index.equals(df.index)
        assert scored.index.names == df.index.names
        assert scored["similarity"].dtype == "float64"
        assert scored["error"].dtype == pd.Series(["a text"]).dtype
        assert [None if np.isnan(value) else value for value in scored["similarity"]] == wanted
        assert scored["error"].isna().tolist() == [value is not None for value in wanted]
    elif back == "polars":
        assert scored.drop("similarity", "error").equals(frame)
        assert scored.schema == {**frame.schema, "similarity": pl.Float64, "error": pl.String}
        assert scored["similarity"].to_list() == wanted
    else:
        assert scored.drop_columns(["similarity", "error"]).equals(frame, check_metadata=True)
        assert scored["similarity"].to_pylist() == wanted


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "batch", "hub", "reader"])
def test_earlier_scores_are_refused_or_replaced(kind: str) -> None:
    frame = FRAMES[kind]
    again = score(frame.to_reader() if kind == "reader" else frame)
    again = again.read_all() if kind == "reader" else again
    with pytest.raises(
        UsageError, match="the frame already has a column 'similarity'; replace it with overwrite_column=True"
    ):
        score(again.to_reader() if kind == "reader" else again)
    scored = as_arrow(score(again.to_reader() if kind == "reader" else again, overwrite_column=True))
    assert scored == as_arrow(again)


def test_the_scores_of_a_table_and_a_frame_are_equal(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    df = pd.DataFrame({"url": ["red.png", "red.png"], "caption": ["a red dog", "lime"]})
    df.to_csv(tmp_path / "in.csv", index=False)
    score_table(tmp_path / "in.csv", tmp_path / "out.csv", Config(model="mini"))
    in_table = pd.read_csv(tmp_path / "out.csv")["similarity"].tolist()
    assert score_frame(df, Config(model="mini", base_dir=tmp_path))["similarity"].tolist() == in_table


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pl.DataFrame(ROWS).lazy(), "collect"),
        (pd.Series(["a"]), "not a pandas .*Series"),
        (pd.DataFrame, "must be a DataFrame"),
        ("pairs.csv", "for files, use score_table"),
        (Path("pairs.csv"), "for files, use score_table"),
        (ROWS, "not a dict"),
        (SimpleNamespace(mapInArrow=1), "score_dataframe"),
        (None, "not None"),
    ],
    ids=str,
)
def test_what_is_no_frame_is_named(given: Any, said: str) -> None:
    with pytest.raises(InputTypeError, match=said):
        score(given)


def test_a_table_is_read_from_files_and_says_who_takes_frames() -> None:
    with pytest.raises(InputTypeError, match=r"in_path must be a path or a URL, .*; pass it to score_frame"):
        score_table(FRAMES["pandas"], "out.csv", CONFIG)


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "hub"])
def test_columns_that_are_missing_or_twice_there_are_named(kind: str) -> None:
    with pytest.raises(UsageError, match=r"column 'URL' is missing from the frame; .*; if you mean 'url'"):
        score(FRAMES[kind], "URL")
    with pytest.raises(InputTypeError, match="config must be a Config"):
        score_frame(FRAMES[kind], 7)  # type: ignore[arg-type]


def test_names_may_be_twice_there_and_need_not_be_texts() -> None:
    df = pd.DataFrame([[inline("red"), "red", 1, 2]], columns=["url", "caption", 0, 0])
    assert list(score(df).columns) == ["url", "caption", 0, 0, "similarity", "error"]
    with pytest.raises(UsageError, match="has two columns named 'url'"):
        score(pd.DataFrame([["a", "b", "c"]], columns=["url", "url", "caption"]))


def test_a_column_of_arrow_that_cannot_be_scored_is_refused_at_once() -> None:
    for frame in (
        pa.table({"url": [["a"]], "caption": ["b"]}),
        pa.table({"url": [["a"]], "caption": ["b"]}).to_reader(),
    ):
        with pytest.raises(UsageError, match="column 'url' of the frame has several values per row"):
            score(frame)


LISTS: dict[str, list[Any]] = {
    "url": [inline("red"), inline("red"), "none.png"],
    "caption": [["red", "green"], ["red"], []],
    "people": [["red"], ["green", "red"], None],
}


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, datasets.Dataset.from_dict])
def test_a_list_of_captions_gives_a_list_of_scores(make: Any) -> None:
    frame = make(LISTS)
    scored = score(frame)
    assert type(scored) is type(frame)
    scores, errors = (
        [
            [None if value != value else value for value in getattr(cell, "as_py", lambda c=cell: c)()]
            for cell in scored[name]
        ]
        for name in ("similarity", "error")
    )
    assert scores == [[1.0, 0.0], [1.0], [None]]
    assert errors == [[None, None], [None], ["empty_caption: the caption is empty or missing"]]


def test_references_are_those_of_records() -> None:
    config = Config(score="ref_clipscore")
    scored = score_frame(pd.DataFrame(LISTS), config, encoder=ColourEncoder(), col_references="people")
    records = [Record(str(LISTS["url"][0]), text, references=("red",)) for text in ("red", "green")]
    expected = [result.similarity for result in score_pairs(records, config, encoder=ColourEncoder())]
    assert scored["similarity"][0] == expected
    with pytest.raises(ConfigError, match="col_references works only with score='ref_clipscore'"):
        score(pd.DataFrame(LISTS), col_references="people")
    with pytest.raises(ConfigError, match="score_frame without col_references"):
        score_frame(pd.DataFrame(LISTS), config)
    with pytest.raises(UsageError, match="read_all"):
        score_frame(pa.table(LISTS).to_reader(), config, col_references="people")


def test_a_bar_is_shown_where_it_is_asked_for_and_in_notebooks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    score(FRAMES["pandas"])
    assert capsys.readouterr().err == ""
    score(FRAMES["pandas"], progress=True)
    assert "4/4" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    score(FRAMES["pandas"])
    assert "4/4" in capsys.readouterr().err
    score(FRAMES["pandas"], progress=False)
    assert capsys.readouterr().err == ""


def test_a_reader_is_scored_as_it_is_read() -> None:
    pulled: list[int] = []

    def batches() -> Any:
        for number in range(10):
            pulled.append(number)
            yield pa.record_batch({"url": [inline("red")], "caption": [f"red {number}"]})

    schema = pa.schema({"url": pa.string(), "caption": pa.string()})
    scored = score(pa.RecordBatchReader.from_batches(schema, batches()))
    assert pulled == []
    assert sum(batch.num_rows for batch in scored) == 10
