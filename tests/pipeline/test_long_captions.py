"""Captions beyond the largest length fail alone, through every door, before a tokenizer sees them."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.images import make_png
from tests.support.paths import ROOT
from text_image_similarity import Config, ErrorCode, Record, RowError, Scorer, UsageError, score_csv
from text_image_similarity.dataset import read_dataset
from text_image_similarity.encoders import tokens as tokens_module
from text_image_similarity.encoders.dual_encoder import read_dual_encoder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.encoders.token_growth import growth_of
from text_image_similarity.encoders.tokens import tokens_of
from text_image_similarity.pipeline import LocalEngine, classify
from text_image_similarity.records import MOST_CAPTION, caption_of, parts_of

RED = make_png((255, 0, 0))
LONGEST, LONGER = "red" + "." * (MOST_CAPTION - 3), "red" + "." * (MOST_CAPTION - 2)
REFUSED = "too_many_bytes: the caption has 2,000,001 characters, but at most 2,000,000 are accepted"


class Watched(ColourEncoder):
    """Refuses to see a caption that is too long."""

    def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
        assert max(map(len, texts), default=0) <= MOST_CAPTION
        return texts

    def encode_text(self, texts: Sequence[str]) -> Any:
        return super().encode_text(self.tokenize(texts))


@pytest.mark.parametrize("first", ["", "\u3000"])  # a caption that begins with white space takes another path
def test_pairs_images_and_texts(first: str) -> None:
    texts = [f"{first}{LONGEST}"[:MOST_CAPTION], f"{first}{LONGER}"[: MOST_CAPTION + 1], "red"]
    with Scorer(encoder=Watched()) as scorer:
        for results in (
            list(scorer.score_pairs([Record(RED, text) for text in texts])),
            list(scorer.score_images([RED] * 3, texts)),
        ):
            assert [(result.similarity, result.error) for result in results[::2]] == [(1.0, None)] * 2
            assert results[1].error == REFUSED
        vectors: list[Any] = list(scorer.embed_texts(texts))
        assert np.array_equal(vectors[0], vectors[2])
        assert str(vectors[1]) == REFUSED
        with pytest.raises(UsageError, match="at most 2,000,000 are accepted"):
            list(classify([RED], [LONGER, "blue"], scorer, logit_scale=1))


@pytest.mark.parametrize("others", [[], [""]], ids=["plain", "not plain"])
def test_tables(tmp_path: Path, others: list[str]) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), *(("red.png", text) for text in (LONGEST, LONGER, *others))])
    score_csv(tmp_path / "in.csv", tmp_path / "out.csv", Config(), engine=LocalEngine(encoder=Watched()))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["similarity"], row["error"]) for row in rows[:2]] == [("1.0", ""), ("", REFUSED)]


def test_blank_references_are_left_out() -> None:
    given: list[Any] = [("red",), ("red", "", None, " \u200b"), (" ", None), (5,), ("5",)]
    with Scorer(Config(score="ref_clipscore"), encoder=ColourEncoder()) as scorer:
        some, same, none, number, text = scorer.score_pairs(Record(RED, "red", references) for references in given)
    assert some == same
    assert none.error == "empty_caption: the row has no reference captions"
    assert number == text
    assert some != text


def test_references(tmp_path: Path) -> None:
    given = [["red"] * 1000, ["red"] * 1001, ["red", LONGEST], ["red", LONGER], []]
    records = [Record(RED, "red", tuple(references)) for references in given]
    with Scorer(Config(score="ref_clipscore"), encoder=Watched()) as scorer:
        results = list(scorer.score_pairs(records))
    assert [result.error for result in results] == [
        None,
        "too_many_bytes: the row has 1,001 reference captions, but at most 1,000 are accepted",
        None,
        "too_many_bytes: a reference caption of the row has 2,000,001 characters, but at most 2,000,000 are accepted",
        "empty_caption: the row has no reference captions",
    ]
    with Scorer(encoder=Watched()) as scorer:  # which does not read references
        assert [result.error for result in scorer.score_pairs(records)] == [None] * 5
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "in.csv").write_text(f"url,caption,refs\nred.png,red,red\nred.png,red,{LONGER}\n")
    score_csv(
        tmp_path / "in.csv",
        tmp_path / "out.csv",
        Config(score="ref_clipscore"),
        col_references="refs",
        engine=LocalEngine(encoder=Watched()),
    )
    assert "a reference caption of the row has 2,000,001" in (tmp_path / "out.csv").read_text()


def test_rows_with_many_references_fill_a_batch() -> None:
    seen: list[int] = []

    class Counting(Watched):
        def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
            seen.append(len(texts))
            return super().tokenize(texts)

    records = [Record(RED, "red", tuple(f"red {row} {number}" for number in range(1000))) for row in range(20)]
    with Scorer(Config(score="ref_clipscore", batch_size=8), encoder=Counting()) as scorer:
        results = list(scorer.score_pairs(records))
    assert [result.error for result in results] == [None] * 20
    assert len({result.similarity for result in results}) == 1
    assert max(seen) <= 256 * 8 + 1000


def test_spark_the_client_and_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (parts_of(Record("red.png", LONGER)), parts_of(Record("red.png", f" {LONGEST}"))):
        assert str(found) == REFUSED
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace())
    program = import_module("text_image_similarity.export.triton_models.preprocess")
    assert program._text(LONGEST.encode()) == LONGEST
    with pytest.raises(RowError, match=REFUSED):
        program._text(LONGER.encode())


def test_data_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.csv").write_text(f"url,caption\na.png,{LONGEST}\nb.png,{LONGER}\n")
    left_out: Counter[str] = Counter()
    assert [image.captions for image in read_dataset(tmp_path / "in.csv", left_out=left_out)] == [(LONGEST,)]
    assert left_out == {"too_many_bytes": 1}
    assert "row 2" in caplog.text
    assert "has 2,000,001 characters" in caplog.text


def test_numbers_and_blank_captions() -> None:
    for value in (" " * (MOST_CAPTION + 1), int("9" * 4000) ** 3, np.str_("x" * (MOST_CAPTION + 1))):
        found = caption_of(value)
        assert isinstance(found, RowError)
        assert found.code is not ErrorCode.ENCODER_ERROR
    assert caption_of(LONGEST) == LONGEST


def test_captions_are_tokenized_in_groups(mini_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a dog", "", "two cats on a mat " * 9, "x" * 50, " ", "a"]
    whole = tokens_of(mini_tokenizer, pad=0, if_empty=[1]).encode(texts)
    seen: list[int] = []

    class Counting:
        truncation = mini_tokenizer.truncation
        normalizer, pre_tokenizer = mini_tokenizer.normalizer, mini_tokenizer.pre_tokenizer

        @staticmethod
        def encode_batch_fast(some: list[str]) -> Any:
            seen.append(sum(map(len, some)))
            return mini_tokenizer.encode_batch_fast(some)

    monkeypatch.setattr(tokens_module, "_AT_ONCE", 60 * 12)  # each letter may become twelve
    counting: Any = Counting()
    assert tokens_of(counting, pad=0, if_empty=[1]).encode(texts) == whole
    assert seen == [5, 162, 52]
    assert tokens_of(counting, pad=0).encode([]) == []
    monkeypatch.setattr(tokens_module, "_MOST_GROWN", 161 * 12)
    with pytest.raises(
        ValueError, match=r"a caption has 162 characters, and .* may make it 12 times longer; shorten it"
    ):
        tokens_of(counting, pad=0).encode(texts)


def test_the_longest_captions_may_be_read_by_clip(tiny_clip: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_clip / "tokenizer.json"))
    assert growth_of(tokenizer) * MOST_CAPTION < tokens_module._MOST_GROWN


@pytest.fixture
def mini_tokenizer() -> Tokenizer:
    return read_dual_encoder(ROOT / "text_image_similarity" / "weights" / "mini")[1]
