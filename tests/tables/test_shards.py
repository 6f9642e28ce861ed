"""score_table on tar shards and folders of pictures: the scores of files, whatever ends the run, and a row for what is damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import gradient, make_png, saved
from tests.support.paths import ROOT
from tests.support.shards import Member, make_tar, sample, write_tar
from text_image_similarity import (
    Config,
    Limits,
    LocalEngine,
    StoppedError,
    TableOptions,
    UsageError,
    evaluate,
    filter_table,
    read_dataset,
    score_csv,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.tables import Summary

CONFIG = Config(batch_size=4, io_workers=4, retries=0, chunk_size=5)
COLOURS = ["red", "blue", "lime", "navy", "tan", "teal", "gold"]


def score(source: Path, target: Path | str, config: Config = CONFIG, **given: Any) -> Summary:
    return score_csv(source, target, config, engine=LocalEngine(encoder=ColourEncoder()), **given)


def shard(number: int, rows: int = 12) -> list[Member]:
    """Return samples as img2dataset writes them, a few with something missing."""
    found: list[Member] = []
    for row in range(rows):
        key = f"{number:05}{row:04}"
        members = sample(
            key, COLOURS[(number + row) % 7], f"{COLOURS[row % 5]}", json=b'{"key": "%s", "width": 16}' % key.encode()
        )
        found += [
            m
            for m in members
            if not (row == 3 and m[0].endswith("png")) and not (row == 5 and not m[0].endswith("png"))
        ]
    return found


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    for number in range(3):
        write_tar(tmp_path / "shards" / f"{number:05}.tar", shard(number))
    return tmp_path / "shards" / "{00000..00002}.tar"


def cells(path: Path) -> list[tuple[str | None, float | None, str | None]]:
    table = pq.read_table(path).to_pydict()
    return list(zip(table["__key__"], table["similarity"], table["error"], strict=True))


def test_shards_a_folder_and_a_table_of_files_score_alike(tmp_path: Path, shards: Path) -> None:
    photos = [
        ("a", make_png("red"), "red"),
        ("b", saved(gradient(), "JPEG"), "a teal and red"),
        ("c", b"no image", "blue"),
    ]
    folder = tmp_path / "photos"
    folder.mkdir()
    for key, image, caption in photos:
        (folder / f"{key}.jpg").write_bytes(image)
        (folder / f"{key}.txt").write_text(caption)
    (tmp_path / "in.csv").write_text("url,caption\n" + "".join(f"photos/{key}.jpg,{text}\n" for key, _, text in photos))
    members = [
        (name, data)
        for key, image, text in photos
        for name, data in ((f"{key}.jpg", image), (f"{key}.txt", text.encode()))
    ]
    write_tar(tmp_path / "in.tar.gz", members)
    rows = [
        {"key": key, "url": "http://127.0.0.1:1111/x", "jpg": image, "caption": text} for key, image, text in photos
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")  # img2dataset's columns
    found = []
    for source in (tmp_path / "in.csv", tmp_path / "in.tar.gz", folder, tmp_path / "in.parquet"):
        score(source, tmp_path / "out.parquet", options=TableOptions(force=True))
        table = pq.read_table(tmp_path / "out.parquet").to_pydict()
        found.append((table["similarity"], [error and error.partition(":")[0] for error in table["error"]]))
    assert found[0][1] == [None, None, "not_an_image"]
    assert found[1:] == found[:1] * 3
    summary = score(tmp_path / "in.tar.gz", tmp_path / "out.csv")
    assert (summary.columns, summary.failures) == (("__image__", "caption"), {"not_an_image": 1})
    assert (tmp_path / "out.csv").read_text().splitlines()[:2] == ["__key__,caption,similarity,error", "a,red,1.0,"]


def test_what_is_missing_or_damaged_is_a_row_with_a_code(tmp_path: Path, shards: Path) -> None:
    second = shards.with_name("00001.tar")
    second.write_bytes(second.read_bytes()[:9000])
    summary = score(shards, tmp_path / "out.parquet")
    found = cells(tmp_path / "out.parquet")
    assert summary.failures == {"empty_caption": 2, "invalid_url": 2, "truncated": 1}
    assert len(found) == summary.rows
    rest = [cell for cell in found if cell[2] and cell[2].startswith("truncated")]
    assert [error for _, _, error in rest] == ["truncated: 00001.tar ends at byte 9000"]
    assert [key for key, _, _ in found if key and key.startswith("00002")] == [f"00002{row:04}" for row in range(12)]
    assert sum(similarity is not None for _, similarity, _ in found) == summary.scored
    again = score(shards, tmp_path / "small.parquet", Config(limits=Limits(max_bytes=10)))
    assert again.failures["too_many_bytes"] > 20


def test_a_field_of_one_sample_stops_no_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, named = sample("a", "red", "red"), sample(
        "b", "red", "red", json=b'{"similarity": 9, "__key__": "x", "w": 1}'
    )
    source = write_tar(tmp_path / "in.tar", [*plain, *named])
    score(source, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "__key__,caption,w,similarity,error",
        "a,red,,1.0,",
        "b,red,1,1.0,",
    ]
    assert (
        "members in the samples' JSON with the names of output columns are left out: __key__, similarity" in caplog.text
    )


def test_a_folder_gets_a_file_for_each_shard(tmp_path: Path, shards: Path) -> None:
    whole = score(shards, tmp_path / "whole.parquet")
    summary = score(shards, f"{tmp_path / 'out'}/")
    names = [f"{number:05}.parquet" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == names
    assert [cell for name in names for cell in cells(tmp_path / "out" / name)] == cells(tmp_path / "whole.parquet")
    assert (summary.rows, summary.scored, summary.failures) == (whole.rows, whole.scored, whole.failures)
    assert pq.read_schema(tmp_path / "out" / names[0]).names == [
        "__key__",
        "caption",
        "key",
        "width",
        "similarity",
        "error",
    ]
    filter_table(tmp_path / "out" / "*.parquet", tmp_path / "best.csv", top=2)
    (tmp_path / "other").mkdir()
    write_tar(tmp_path / "other" / "00000.tar", shard(0))
    with pytest.raises(UsageError, match="files of the same name"):
        score(tmp_path / "*" / "00000.tar", tmp_path / "out")


def test_finished_shards_stay_as_they_are(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    asked = iter([False, False, False, False, True])
    with pytest.raises(StoppedError):
        score(shards, f"{out}/", stop=lambda: next(asked))
    first = (out / "00000.parquet").stat().st_mtime_ns
    progress: list[tuple[int, int, int]] = []
    score(shards, out, progress=lambda *seen: progress.append(seen))
    assert (out / "00000.parquet").stat().st_mtime_ns == first
    assert progress[-1] == (36, 6, 36)
    assert not list(out.glob("*.parts"))
    write_tar(shards.with_name("00002.tar"), shard(6))
    before = [(out / f"0000{number}.parquet").stat().st_mtime_ns for number in range(3)]
    score(shards, out)
    after = [(out / f"0000{number}.parquet").stat().st_mtime_ns for number in range(3)]
    assert (after[:2], after[2] > before[2]) == (before[:2], True)
    score(shards, out, options=TableOptions(start="restart"))
    assert (out / "00000.parquet").stat().st_mtime_ns > first
    score(shards, out, Config(batch_size=4, score="unit"))
    assert cells(out / "00000.parquet") != cells(out / "00001.parquet")


_KILLED = """
import os, signal, sys
from text_image_similarity import Config, LocalEngine, score_csv
from text_image_similarity.encoders.testing import ColourEncoder
def progress(done, failed, total):
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
score_csv(sys.argv[1], sys.argv[2], Config(batch_size=4, io_workers=4, retries=0, chunk_size=5), engine=LocalEngine(encoder=ColourEncoder()), progress=progress)
"""


@pytest.mark.parametrize("target", ["out.parquet", "out/"])
def test_sigkill_and_resume_end_with_the_bytes_of_an_uninterrupted_run(
    tmp_path: Path, shards: Path, target: str
) -> None:
    for at in (11, 35):  # in the third part of the first and of the last shard, when the first one is on the disk
        command = [sys.executable, "-c", _KILLED, str(shards), f"{tmp_path}/{target}", str(at)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    kept = [path.name for path in tmp_path.rglob("part-*.arrow")]
    assert kept
    score(shards, f"{tmp_path}/{target}")
    score(shards, f"{tmp_path}/whole-{target}")
    for path in (tmp_path / target).rglob("*.parquet") if target == "out/" else [tmp_path / target]:
        other = Path(str(path).replace(f"{tmp_path}/out", f"{tmp_path}/whole-out"))
        assert path.read_bytes() == other.read_bytes()
    assert not list(tmp_path.rglob("*.parts"))


def test_shards_and_folders_are_data_sets(tmp_path: Path, shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read_dataset(shards)
    assert len(found) == len(set(COLOURS))  # equal pictures are one photo
    assert {image.source for image in found} == {make_png(colour) for colour in COLOURS}
    assert "6 rows were left out" in caplog.text
    cut = write_tar(tmp_path / "cut.tar", [*sample("a", "red", "red"), *sample("b", "blue", "blue")])
    cut.write_bytes(cut.read_bytes()[:2600])  # in the header of b.png
    read_dataset(cut)
    assert "has no image in '__image__': cut.tar ends at byte 2600" in caplog.text
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(make_png(colour))
        (folder / f"{colour}.txt").write_text(colour)
    report = evaluate(folder, CONFIG, encoder=ColourEncoder())
    assert len(read_dataset(folder)) == 7
    assert report.retrieval is not None


def test_a_fsspec_url_may_hold_shards(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    for number in range(2):
        system.pipe_file(f"/{tmp_path.name}/{number}.tar", make_tar(shard(number)))
    summary = score_csv(
        f"memory://{tmp_path.name}/{{0..1}}.tar",
        f"memory://{tmp_path.name}/out/",
        CONFIG,
        engine=LocalEngine(encoder=ColourEncoder()),
    )
    assert summary.rows == 24
    assert system.exists(f"/{tmp_path.name}/out/1.parquet")
