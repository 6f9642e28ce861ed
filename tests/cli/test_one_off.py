"""`score PICTURE CAPTION`, `report` and `models`, as their users meet them."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest

from tests.cli.test_cli import command
from tests.support.images import make_png
from tests.support.paths import ROOT
from text_image_similarity import Config, Record, UsageError, score_pairs
from text_image_similarity.cli.models import listed_models
from text_image_similarity.cli.one_off import kind_of
from text_image_similarity.encoders import cached_models, resolve_model

CAPTIONS = ("a red square", "a blue square")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(make_png())
    return path


def test_a_picture_is_scored_with_each_caption(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(model="mini", score="unit")
    expected = [f"{found.similarity:.4f}" for found in score_pairs([Record(str(picture), c) for c in CAPTIONS], config)]
    options = ("--model", "mini", "--score", "unit")
    assert command("score", picture, CAPTIONS[0], *options) == 0
    assert capsys.readouterr() == (f"{expected[0]}\n", "")
    assert command("score", picture, *CAPTIONS, " ", *options) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{score}  {caption}" for score, caption in zip(expected, CAPTIONS, strict=True)]
    assert said.err == "error: empty_caption: the caption is empty or missing (caption ' ')\n"
    assert [path.name for path in picture.parent.iterdir()] == ["red.png"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["none.jpg", "a cat"], 1, "error: file_not_found: none.jpg: No such file or directory"),
        (["in.csv", "out", "a cat"], 2, "in.csv is not an image"),
        (["a.csv", "b.csv", "c.csv", "out/"], 2, 'if the shell expanded a pattern, put it in quotes: "tables/*.csv"'),
        (["red.png", "a cat", "--model", "fast"], 2, "scored in this process by one model"),
        (["red.png", "a cat", "--service-url", "http://127.0.0.1:1"], 2, "leave out --engine and --service-url"),
    ],
)
def test_what_cannot_be_scored_is_said(
    arguments: list[str],
    exit_code: int,
    message: str,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(picture.parent)
    assert command("score", *arguments, "--model", "mini") == exit_code
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_the_page_shows_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "command_line_score.md").read_text(encoding="utf-8")
    found = re.search(r"^\$ text-image-similarity (score challenge_set/.*)\n((?:.+\n)+?)```", page, re.MULTILINE)
    assert found
    monkeypatch.chdir(ROOT)
    assert command(*shlex.split(found[1])) == 0
    printed = [line.partition("  ") for line in capsys.readouterr().out.splitlines()]
    promised = [line.partition("  ") for line in found[2].splitlines()]
    assert [caption for *_, caption in printed] == [caption for *_, caption in promised]
    scores = [[float(score) for score, *_ in lines] for lines in (printed, promised)]
    assert scores[0] == pytest.approx(scores[1], abs=0.002)


def test_a_page_is_written_later(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = picture.parent
    (folder / "in.csv").write_text("picture,words\nred.png,a red square\nnone.png,a red square\n")
    scored, page = folder / "deep" / "out.csv", folder / "page.html"
    scored.parent.mkdir()
    columns = ("--url-col", "picture", "--caption-col", "words")
    assert command("score", folder / "in.csv", scored, *columns, "--score", "unit", "--model", "mini", "--quiet") == 0
    assert command("report", scored, page, "--base-dir", folder) == 0
    said = capsys.readouterr().out
    assert "page.html" in said
    assert "missing" not in said
    html = page.read_text(encoding="utf-8")
    assert "unit" in html
    assert "file_not_found" in html
    assert "data:image/jpeg" in html
    assert command("score", folder / "in.csv", scored, *columns, "--model", "mini", "--report", page, "--quiet") == 0
    (folder / "deep" / "out.csv.summary.json").unlink()
    assert command("report", scored, page) == 2
    assert "columns 'url', 'caption' are missing" in capsys.readouterr().err
    assert command("report", scored, page, *columns, "--base-dir", folder) == 0
    assert "data:image/jpeg" in page.read_text(encoding="utf-8")
    page.write_text("mine")
    assert command("report", scored, page) == 2
    assert page.read_text() == "mine"


STRANGE = {
    "text": "{",
    "list": "[1]",
    "parts": '{"seconds": [' + "[]," * 1_000_000 + "[]]}",
    "seconds": '{"score": "cosine", "seconds": ["total"]}',
    "word": '{"score": "cosine", "seconds": {"total": "long"}}',
    "captions": '{"score": "cosine", "job": {"captions": 5}}',
    "settings": '{"score": "cosine", "job": {"settings": "s"}}',
    "warnings": '{"score": "cosine", "warnings": {"first": "w"}}',
    "digits": '{"seconds": {"total": ' + "9" * 350 + "}}",
    "large": '{"seconds": {"total": ' + "9" * 300 + "}}",
    "infinite": '{"seconds": {"total": 1e999}}',
    "speed": '{"seconds": {"total": 1}, "pairs_per_second": "x"}',
    "speeds": '{"seconds": {"total": 1}, "pairs_per_second": [1]}',
    "nan": '{"seconds": {"total": 1}, "pairs_per_second": NaN}',
    "rows": '{"rows": "3"}',
    "kind": '{"score": ["cosine"]}',
    "points": '{"throughput": [[1, 2], [3]]}',
    "point": '{"throughput": [[1, "x"]]}',
    "figures": '{"score": "cosine", "similarity": {"mean": "x"}}',
}


@pytest.mark.parametrize("kind", ["pipe", "bytes", *STRANGE])
def test_a_summary_that_cannot_be_read_is_refused(picture: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    scored = picture.with_name("scored.csv")
    scored.write_text("url,caption,similarity,error\nred.png,a red square,0.5,\n")
    summary = Path(f"{scored}.summary.json")
    if kind == "pipe":
        os.mkfifo(summary)
    elif kind == "bytes":
        with summary.open("wb") as file:
            file.truncate(1 << 40)
    else:
        summary.write_text(STRANGE[kind])
    assert command("report", scored, picture.with_name("page.html")) == 2
    assert "delete it to make a report without facts about the run" in capsys.readouterr().err


@pytest.mark.parametrize("score", ["9" * 308, "1e308", "-1e308", "1e999", "NaN", '"' + "9" * 400 + '"', "9" * 350])
def test_scores_that_are_out_of_range_end_no_command(picture: Path, score: str) -> None:
    scored = picture.with_name("scored.jsonl")
    row = '{"url": "red.png", "caption": "a red square", "similarity": %s, "error": null}\n'
    scored.write_text(row % "0.5" + row % score)
    has_limit = len(score) == 350
    assert command("report", scored, picture.with_name("page.html")) == has_limit
    assert command("filter", scored, picture.with_name("kept.jsonl"), "--min", "0.1") == has_limit


def test_a_summary_does_not_choose_the_folder_of_the_images(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scored table and its summary may be a stranger's, and the page is meant to be sent."""
    private = picture.parent / "private"
    own = private / "received"
    own.mkdir(parents=True)
    picture.rename(private / "red.png")
    (own / "own.png").write_bytes(make_png("blue"))
    rows = [
        f"{reference},a red square,0.{at},\n"
        for at, reference in enumerate(("own.png", "red.png", private / "red.png"))
    ]
    (own / "scored.csv").write_text(f"url,caption,similarity,error\n{''.join(rows)}")
    (own / "scored.csv.summary.json").write_text(json.dumps({"input": str(private / "in.csv")}))
    page = own / "page.html"
    assert command("report", own / "scored.csv", page) == 0
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 1
    assert "local images missing from the page: 2; use --base-dir to name the folder" in capsys.readouterr().out
    assert command("report", own / "scored.csv", page, "--base-dir", private) == 0
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 2


def test_models_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", partial(huggingface_hub.scan_cache_dir, hub))
    assert command("models", "--json") == 0
    found = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(found) == ["mini", "fast", "accurate"]
    assert [line["here"] for line in found.values()] == [True, False, False]
    assert found["mini"]["dimension"] == 256
    for name, shape in (
        ("models--me--small", {"model_type": "clip", "projection_dim": 64}),
        ("models--me--bert", {"model_type": "bert"}),
        ("models--openai--clip-vit-base-patch32", {"model_type": "clip", "projection_dim": 512}),
    ):
        commit = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
        snapshot = hub / name / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (hub / name / "refs").mkdir()
        (hub / name / "refs" / "main").write_text(commit)
        (snapshot / "config.json").write_text(json.dumps(shape))
    assert [model.name for model in cached_models()] == ["me/small", "openai/clip-vit-base-patch32"]
    assert command("models") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7  # head, four models, each once, and where to read on
    assert [line.split()[2] for line in lines[1:5]] == ["mini", "fast", "accurate", "me/small"]
    assert [" yes " in line for line in lines[1:5]] == [True, True, False, True]


def test_what_is_said_of_the_pinned_models_is_what_open_clip_says_of_them() -> None:
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    pinned = {model.name: model for model in listed_models()}
    for name, repository, architecture, parameters in (
        ("fast", "openai/clip-vit-base-patch32", "ViT-B-32", 151_277_313),
        ("accurate", "openai/clip-vit-large-patch14", "ViT-L-14", 427_616_513),
    ):
        settings = json.loads((Path(spec.origin).parent / "model_configs" / f"{architecture}.json").read_text())
        assert pinned[name].dimension == settings["embed_dim"]
        assert pinned[name].size_mb == pytest.approx(4 * parameters / 1e6, abs=1), "32 bits each"
        assert pinned[name].source == f"hub: {repository}"
        assert resolve_model(name, None) == (repository, resolve_model(repository, None)[1])
        assert resolve_model(name, None)[1] is not None


@pytest.mark.parametrize("out", ["My Drive/scored.csv", "out.pq", "out.csv.gz", "out/"])
def test_a_folder_is_scored_into_whatever_names_a_table(tmp_path: Path, out: str) -> None:
    assert kind_of(argparse.Namespace(in_path=str(tmp_path), out_path=out, captions=[])) == "table"


def test_a_caption_that_is_too_long_for_a_name_is_none(tmp_path: Path) -> None:
    options = argparse.Namespace(in_path=str(tmp_path), out_path="a dog " * 1000, captions=[])
    with pytest.raises(UsageError, match="is a folder, and 'a dog"):
        kind_of(options)
    options.in_path = "data:," + "x" * 5000
    assert kind_of(options) == "table"
