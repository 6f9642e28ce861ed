"""What the command line says of itself, and of mistakes in typing."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

import pytest

from tests.cli.test_cli import command
from tests.support.paths import ROOT
from text_image_similarity import UsageError
from text_image_similarity.cli.examples import EXAMPLES, EXIT_CODES
from text_image_similarity.cli.main import make_parser
from text_image_similarity.formats import check_columns


@pytest.mark.parametrize(
    ("arguments", "place", "ending"),
    [
        (
            ["score", "in.csv", "out.csv", "--modl", "mini"],
            "score",
            "unrecognized arguments: --modl mini; did you mean --model?",
        ),
        (["score", "in.csv", "out.csv", "--zzz"], "score", "unrecognized arguments: --zzz"),
        (["score", "in.csv", "out.csv", "--score", "clip-score"], "score", "did you mean clip_score?"),
        (["score", "in.csv", "out.csv", "--batch-size", "abc"], "score", "--batch-size: 'abc' is not a whole number"),
        (
            ["score", "in.csv"],
            "score",
            "the following arguments are required: OUT|CAPTION; usage: text-image-similarity score IN OUT|CAPTION [CAPTION ...] [options]",
        ),
        (["scor"], "", "did you mean score?"),
        (["catalog", "creat", "shop"], "catalog", "did you mean create?"),
        (["catalog", "add", "shop", "table.csv", "--id-column", "id"], "catalog add", "did you mean --id-col?"),
        ([], "", "the following arguments are required: COMMAND; usage: text-image-similarity COMMAND ... [options]"),
    ],
)
def test_a_mistake_is_said_in_two_lines(
    arguments: list[str], place: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 2
    said, see = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{f'text-image-similarity {place}'.strip()}: error: ")
    assert said.endswith(ending)
    assert see == f"see {f'text-image-similarity {place}'.strip()} --help"


def test_a_column_is_suggested() -> None:
    with pytest.raises(UsageError, match="the columns: url, Captions; did you mean 'Captions'\\?"):
        check_columns(["url", "Captions"], ["url", "caption"], "pairs.csv")
    with pytest.raises(UsageError, match="did you mean 'url'\\?"):
        check_columns(["url", "caption"], ["ulr"], "pairs.csv")


def test_two_models_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("serve", "--model", "mini", "--model", "small=mini", "--model", "mini@v2") == 2
    assert (
        "--model mini@v2: two models are called mini; give this one another name, with NAME=mini"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_of_each_command_ends_with_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*name.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: text-image-similarity {name} ")
    assert len(shown.partition("\n\n")[0].splitlines()) <= 2
    assert shown.partition("\n\n")[0].endswith("[options]")
    for example in EXAMPLES[name]:
        assert f"  text-image-similarity {example}\n" in shown
        assert vars(make_parser()[0].parse_args(shlex.split(example)))["run"]
    page, heading = re.findall(r"documentation: (docs/\S+)#(\S+)", shown)[0]
    assert f"\n## {heading}\n" in (ROOT / page).read_text(encoding="utf-8")


def test_shtab_finds_the_parser_where_the_page_says() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    found = re.search(r"--prog (\S+) (\S+)\.(\w+)", page)
    assert found
    parser = getattr(import_module(found[2]), found[3])()
    assert parser.prog == found[1]
    assert parser.parse_args(["models"]).run


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == {*make_parser()[1], "catalog"}


def test_the_page_explains_the_same_exit_codes() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \| ", page, re.MULTILINE)} == set(EXIT_CODES)
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("command_line*.md"))
    headings = {heading.lower() for heading in re.findall(r"^## (\S+)$", pages, re.MULTILINE)}
    assert {name.split()[0] for name in EXAMPLES} <= headings
