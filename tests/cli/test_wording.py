"""Errors of rooms in the words of the command line."""

from __future__ import annotations

import pytest

from text_image_similarity.cli.main import make_parser
from text_image_similarity.cli.wording import command_line, in_options

SCORE = make_parser()[0].parse_args(["score", "in.csv", "out.csv"]).option_names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("precision='fp16' needs a GPU", "--precision fp16 needs a GPU"),
        ("timeout_s=-1 must be positive", "--timeout -1 must be positive"),
        ("base_dir='my photos' is a file", "--base-dir 'my photos' is a file"),
        ("isolate_decoder=True, but", "--isolate-decoder, but"),
        ("replace it with --force (force=True)", "replace it with --force"),
        ("name one with --url-col (ProductColumns(images=('a',)))", "name one with --url-col"),
        ("add --delimiter ';' (Config(dialect=Dialect(delimiter=...)))", "add --delimiter ';'"),
        ("needs --files-under FOLDER (files_under), or", "needs --files-under FOLDER, or"),
        ("name it with --url-col or --caption-col (col_url, col_text)", "name it with --url-col or --caption-col"),
        ("embedding_cache must be a file", "--embedding-cache must be a file"),
    ],
)
def test_parameters_become_options(text: str, said: str) -> None:
    assert in_options(text, SCORE) == said


@pytest.mark.parametrize(
    "text",
    [
        "the model and its score",  # words
        "total_s=0 must be positive",  # as it is written in --limit
        "column 'batch_size' is missing",
        "batch_size.csv and data/batch_size are missing",
        "pairs (v=1).csv does not exist",
        "https://a.test/?device=1&precision=2 is unavailable",
        "the hub cannot be reached (ConnectError)",
        "device=phone/p.csv does not exist",
        "'my batch_size' and 'a model=x b' are columns",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert in_options(text, SCORE) == text


def test_a_command_can_be_pasted_into_the_shell_of_its_system() -> None:
    words = ["text-image-similarity", "match", "C:\\shop.csv", "red", "--where", "price <= 90"]
    assert command_line(words, windows=False).endswith("red --where 'price <= 90'")
    # In cmd, single quotes quote nothing, and `<` reads from a file.
    assert command_line(words, windows=True) == 'text-image-similarity match C:\\shop.csv red --where "price <= 90"'
    assert command_line(["a<b", 'x = "y"'], windows=True) == '"a<b" "x = \\"y\\""'
