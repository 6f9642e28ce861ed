"""What the documents say is true: their code runs, their options exist, their links lead somewhere."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts import document_options, run_notebook
from tests.support.pages import fenced as blocks
from tests.support.paths import ROOT, copy_challenge_set
from tests.support.services import process
from tests.support.shards import write_tar
from text_image_similarity import Config, ErrorCode, Limits, score_csv
from text_image_similarity.cli import main
from text_image_similarity.cli.options import limit
from text_image_similarity.service.problems import STATUS

README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\b\d+\.\d+")
DOCS = sorted(
    [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *(ROOT / "docs").glob("*.md")]
)


def together(*names: str) -> str:
    """Return the text of several pages, one after the other."""
    return "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in names)


def test_the_readme_python_prints_what_the_readme_says() -> None:
    program = "\n".join(blocks(README, "python"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    printed, promised = done.stdout.splitlines(), "".join(blocks(README, "text")).splitlines()
    assert len(printed) == len(promised)
    for ours, theirs in zip(printed, promised, strict=True):
        assert _rounded(ours) == _rounded(theirs)


def _rounded(line: str) -> str:
    """Round the numbers in a line: the last digits of a score differ between processors."""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number.group()):.3f}", line)


def test_the_predictor_page_prints_what_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "predictor.md").read_text(encoding="utf-8")
    (program,), (promised,) = blocks(page, "python"), blocks(page, "text")
    copy_challenge_set(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == promised


def test_the_scoring_page_prints_what_it_says() -> None:
    page = (ROOT / "docs" / "scoring.md").read_text(encoding="utf-8")
    program = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "".join(blocks(page, "text"))


@pytest.mark.slow
def test_the_tables_page_prints_what_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    (program,), (promised,) = blocks(page, "python"), blocks(page, "text")
    copy_challenge_set(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == promised


def test_the_page_about_your_data_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = {"farm": "a farm with a cow", "band": "a band on a stage", "none": "a boat"}
    copy_challenge_set(tmp_path)
    (tmp_path / "photos").mkdir()
    contents = {}
    for name in ("farm", "band"):
        contents[name] = (ROOT / "challenge_set" / f"{name}.jpg").read_bytes()
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(contents[name])
        (tmp_path / "photos" / f"{name}.txt").write_text(captions[name])
    rows = [(f"photos/{name}.jpg", text) for name, text in captions.items()]
    (tmp_path / "pairs.csv").write_text("url,caption\n" + "".join(f"{url},{text}\n" for url, text in rows))
    (tmp_path / "shards").mkdir()
    for number in range(2):
        members = [(f"a.{end}", (tmp_path / "photos" / f"farm.{end}").read_bytes()) for end in ("jpg", "txt")]
        write_tar(tmp_path / "shards" / f"{number:05}.tar", members)
    lines = (json.dumps({"photo": url, "title": text}) + "\n" for url, text in rows)
    (tmp_path / "shop.jsonl").write_text("".join(lines))
    images = [{"bytes": contents.get(name), "path": None} for name in captions]
    columns = {"id": [1, 2, 3], "image": images, "caption": list(captions.values())}
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE product (id INTEGER, photo BLOB, title TEXT)")
        db.executemany(
            "INSERT INTO product VALUES (?, ?, ?)", [(7, contents["farm"], captions["farm"]), (8, None, "a boat")]
        )
        db.commit()
    page = together("your-data.md", "images-in-tables.md")
    monkeypatch.chdir(tmp_path)
    for command in (line[2:] for block in blocks(page, "console") for line in block.splitlines()):
        words = shlex.split(command)[1:]
        with pytest.raises(SystemExit) as ended:
            main([*words, "--quiet"])
        assert ended.value.code == 0
        (tmp_path / words[2]).unlink()
    program = "\n".join(blocks(page, "python"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "".join(blocks(page, "text"))


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that succeeds, in this process, and return what it prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    return shown.out


def test_the_catalogue_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> None:
    page = together("catalog.md", "match-log.md")
    (tmp_path / "sample_catalog").symlink_to(ROOT / "sample_catalog")
    cursor = re.compile(r"--after=\S+")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "console"):
        for step in re.split(r"^\$ text-image-similarity ", block, flags=re.MULTILINE)[1:]:
            command, _, promised = step.partition("\n")
            shown = printed(shlex.split(command), capsys)
            assert not promised.strip() or _masked(cursor.sub("", shown)) == _masked(cursor.sub("", promised))
    for program, promised in zip(blocks(page, "python"), blocks(page, "text"), strict=True):
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == promised


def test_the_page_about_generated_images_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> None:
    page = (ROOT / "docs" / "generated-images.md").read_text(encoding="utf-8")
    with (ROOT / "challenge_set.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["url"].endswith(".jpg")][:20]
    images = [ROOT / row["url"] for row in rows]
    for folder, chosen in (("first", images), ("second", [*images[1:5], images[0], *images[5:]])):
        (tmp_path / folder).mkdir()
        for row, image, shown in zip(rows, images, chosen, strict=True):
            shutil.copy(shown, tmp_path / folder / image.name)
            (tmp_path / folder / image.name).with_suffix(".txt").write_text(row["caption"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (commands,), (program,), (promised,) = blocks(page, "console"), blocks(page, "python"), blocks(page, "text")
    for command in commands.splitlines():
        printed(shlex.split(command)[2:], capsys)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert _rounded(done.stdout) == _rounded(promised)


def test_the_arithmetic_of_scale_is_done() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (program,), (promised,) = blocks(page, "python"), blocks(page, "text")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == promised


def test_the_readme_commands_run(tmp_path: Path) -> None:
    lines = [line[2:] for block in blocks(README, "console") for line in block.splitlines() if line.startswith("$ ")]
    commands = [line for line in lines if line.startswith("text-image-similarity ")]
    assert commands
    for command in commands:
        words = shlex.split(command)[1:]
        words = [str(tmp_path / "scored.csv") if word == "scored.csv" else word for word in words]
        done = subprocess.run(
            [sys.executable, "-m", "text_image_similarity", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, command
        if words[1].endswith(".jpg"):
            assert _rounded(f"$ {command}\n{done.stdout}") in _rounded(README)


def test_the_readme_shows_rows_as_they_are(tmp_path: Path) -> None:
    (shown,) = blocks(README, "csv")
    score_csv(ROOT / "challenge_set.csv", tmp_path / "out.csv", Config(model="mini"))
    written = [_rounded(line) for line in (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()]
    for line in shown.splitlines():
        assert _rounded(line) in written


def test_readme_and_contributing_name_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", pages, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_tables_of_options_are_those_of_the_commands() -> None:
    pages = document_options.pages()
    assert pages == document_options.documented(pages), "run make docs"
    assert sum(page.count("| `--limit NAME=VALUE` |") for page in pages.values()) == 11
    with pytest.raises(
        ValueError,
        match="one mark for each of limits, score, report, filter, evaluate, train, export, models, embed, serve, match, match-table, catalog create",
    ):
        document_options.documented({path: page.replace("<!-- serve:", "<!-- served:") for path, page in pages.items()})


def test_every_limit_is_documented_as_it_is_read() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8").split("\n## Limits\n")[1]
    shown = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE)
    assert dict(limit(f"{name}={value}") for name, value in shown) == asdict(Limits())


def test_every_command_is_documented() -> None:
    page = "".join(document_options.pages().values())
    shown = subprocess.run(
        [sys.executable, "-m", "text_image_similarity", "--help"], capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^    ([a-z-]+) ", shown.stdout, re.MULTILINE)
    assert "score" in commands
    for command in commands:
        assert f"## {command}\n" in page


def _masked(text: str) -> list[str]:
    """Return the words of each line with # for every number: those of mini change with its weights."""
    masked = [" ".join(re.sub(r"-?\d[\d.,]*(e-?\d+)?", "#", line).split()) for line in text.strip().splitlines()]
    return [re.sub(r" ?([\[\]]) ?", r"\1", line) for line in masked]  # NumPy pads inside its brackets


@pytest.mark.slow
def test_the_evaluation_page_shows_what_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> None:
    page = together("evaluation.md", "thresholds.md")
    copy_challenge_set(tmp_path)
    (ratings,) = blocks(page, "csv")
    (tmp_path / "ratings.csv").write_text(ratings, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "console"):
        command, _, promised = block.removeprefix("$ text-image-similarity ").partition("\n")
        assert _masked(printed(shlex.split(command), capsys)) == _masked(promised)
    assert (tmp_path / "report.json").exists()
    for program, promised in zip(blocks(page, "python"), blocks(page, "text"), strict=True):
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert _masked(done.stdout) == _masked(promised)


@pytest.mark.slow
def test_the_service_page_shows_what_comes_out(tmp_path: Path) -> None:
    page = together("service.md", "service-tables.md")
    copy_challenge_set(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with process("--model", "mini", "--drain-delay", "0") as service:
        for block in blocks(page, "console"):
            command, promised = re.fullmatch(r"\$ (.*?)\n((?:\{|rows).*)", block, re.DOTALL).groups()  # type: ignore[union-attr]
            command = command.replace("http://127.0.0.1:8000", service.url)
            command = command.replace("text-image-similarity", f"{sys.executable} -m text_image_similarity")
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
            )
            assert _masked(done.stdout) == _masked(promised)
    (program,) = blocks(page, "python")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "{'status': 'ok'}\n"


def test_every_error_code_is_documented() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert {code.value for code in ErrorCode} <= set(re.findall(r"`([a-z0-9_]+)`", page))


def test_every_problem_of_the_service_is_documented_with_its_status() -> None:
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([0-9, ]+) \| (`[a-z_`, ]+) \|", page, re.MULTILINE)
    documented = {code: statuses for statuses, codes in rows for code in re.findall(r"[a-z_]+", codes)}
    assert documented.keys() == STATUS.keys()
    assert all(str(status) in documented[code] for code, status in STATUS.items())


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_name_headings_that_exist(path: Path) -> None:
    for target, heading in re.findall(r"\]\(([\w./-]*\.md|)#([^)]+)\)", path.read_text(encoding="utf-8")):
        page = (path.parent / target if target else path).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, heading


@pytest.mark.slow
def test_the_quickstart_notebook_prints_what_is_committed() -> None:
    committed, fresh = _shown(nbformat.read(run_notebook.NOTEBOOK, as_version=4)), _shown(run_notebook.run())
    assert "file_not_found" in str(fresh)
    assert sum(kind == "image/png" for kind, _ in fresh) == 2
    assert [kind for kind, _ in committed] == [kind for kind, _ in fresh], "run make docs"
    for (_, promised), (_, printed) in zip(committed, fresh, strict=True):
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", promised), "run make docs"
        # The third digit may be rounded up on one processor and down on another.
        assert [*map(float, NUMBER.findall(printed))] == pytest.approx(
            [*map(float, NUMBER.findall(promised))], abs=1.1e-3
        )


def _shown(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Return what a notebook shows: the kind and the text of each output, where it has one."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [
        (kind, text if kind in ("stdout", "text/plain") else "")
        for output in outputs
        for kind, text in sorted(
            ({output.name: output.text} if output.output_type == "stream" else output.data).items()
        )
    ]


def test_nobody_is_told_to_install_a_name_that_is_on_no_index() -> None:
    """Whoever registers the name on an index would run code on our readers' machines; see `system.install_command`."""
    by_name = re.compile(r"""\b(install|add|with)\b[^\n#]*[ '"`]text[-_]image[-_]similarity(\[|[=<>~!]|['"`\s]|$)""")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [
        f"{name}: {line}"
        for name in filter(None, tracked.split("\0"))
        if (ROOT / name).is_file() and name != "CHANGELOG.md"
        for line in (ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines()
        if "pip" in line and by_name.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_install_lines_work_in_every_shell(path: Path) -> None:
    assert not re.search(r"install '", path.read_text(encoding="utf-8")), "cmd passes single quotes on; use double ones"


GENERATED = sorted((ROOT / "docs").glob("command_line_*.md"))  # tables of options, to look things up in
OLDER = {
    "deploy-a-model.md",
    "deploy-openvino.md",
    "deploy-tensorrt.md",
    "triton.md",
}  # written before the rule
PAGES = [path for path in sorted((ROOT / "docs").glob("**/*.md")) if path not in GENERATED]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 215, f"{lines} lines; move a part of it to a page of its own"


@pytest.mark.parametrize("path", [path for path in PAGES if path.name not in OLDER], ids=lambda path: path.name)
def test_a_source_line_has_one_sentence(path: Path) -> None:
    text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = (re.sub(r"^\d+\. ", "", line) for line in text.splitlines() if not line.startswith(("|", "#", "    ")))
    lines = [re.sub(r"`[^`]*`|\([^()]*\)", "x", line) for line in prose]
    ends = re.compile(r"(?<!et al)(?<!vs)[a-z0-9)*][.?!] (?=[A-Z])")
    assert [line for line in lines if ends.search(line)] == []
