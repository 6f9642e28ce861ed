"""Ray: the same scores as `score_pairs`, whatever the blocks are and whoever dies."""

from __future__ import annotations

import csv
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.faulty_table import faulty_and_challenge_set, outcome
from tests.support.images import make_png
from tests.support.pages import probability_line
from tests.support.paths import ROOT
from tests.support.ray_services import start_ray
from tests.support.server import Server, response
from text_image_similarity import (
    Config,
    Limits,
    ModelUnavailableError,
    Record,
    UsageError,
    load_calibration,
    load_encoder,
    score_csv,
    score_pairs,
)
from text_image_similarity.errors import ConfigError, InputTypeError, TableError
from text_image_similarity.ray_data import RayEngine, engine, score_dataset
from text_image_similarity.records import ScoreResult

if TYPE_CHECKING:
    from ray.data import Dataset

pytestmark = [
    pytest.mark.ray,
    # Ray's own, when its DataContext is made and when its workers' pipes are closed
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning:ray.data.context"),
    pytest.mark.filterwarnings("ignore:The minimum number of concurrent actors:UserWarning:ray.data"),
]
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
MINI = Config(model="mini", base_dir=ROOT)
LOCAL = Limits(allow_private_addresses=True, per_host=64)
RED = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
FAULTS = [
    (None, "no reference"),
    (RED, None),
    (RED, " "),
    ("no-such.png", "a dog"),
    ("gopher://x/y", "a"),
    (RED, "red"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Run Ray with two CPUs, on loopback alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(LOOPBACK, "0")
        import ray
        import ray.data

        earlier = signal.getsignal(signal.SIGTERM)
        start_ray(2)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
        ray.shutdown()
        signal.signal(signal.SIGTERM, earlier)


def rows() -> list[tuple[str | None, str | None]]:
    """Return 100 rows, one in seven of which cannot be scored."""
    with (ROOT / "challenge_set.csv").open(newline="", encoding="utf-8") as file:
        good: list[tuple[str | None, str | None]] = [(row["url"], row["caption"]) for row in csv.DictReader(file)]
    return [FAULTS[i // 7 % len(FAULTS)] if i % 7 == 0 else good[i % len(good)] for i in range(100)]


def table(pairs: Sequence[tuple[str | None, str | None]]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(len(pairs)), pa.int16()),
            "url": pa.array([url for url, _ in pairs], pa.string()),
            "caption": pa.array([text for _, text in pairs], pa.string()),
            "day": pa.array([17] * len(pairs), pa.date32()),
            "tags": pa.array([["a", None]] * len(pairs), pa.large_list(pa.string())),
            "raw": pa.array([b"\0x"] * len(pairs), pa.large_binary()),
        }
    )


def cut(whole: pa.Table, blocks: int) -> list[pa.Table]:
    edges = [whole.num_rows * i // blocks for i in range(blocks + 1)]
    return [whole.slice(start, end - start) for start, end in pairwise(edges)]


def whole(scored: Dataset) -> pa.Table:
    """Return a dataset's rows in the order of their ids."""
    import ray

    return pa.concat_tables(ray.get(scored.to_arrow_refs())).sort_by("id")


def scores(found: pa.Table) -> list[tuple[float | None, str | None]]:
    return list(zip(found["similarity"].to_pylist(), found["error"].to_pylist(), strict=True))


def expected(
    pairs: Sequence[tuple[str | None, str | None]], config: Config = MINI
) -> list[tuple[float | None, str | None]]:
    results = score_pairs([Record.of(*pair) for pair in pairs], config)
    return [(None if result.error is not None else result.similarity, result.error) for result in results]


def actors(name: str) -> list[psutil.Process]:
    """Return the processes of this test's actors of a class; others on the machine have a Ray of their own."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if "".join(process.cmdline()[:1]).startswith(f"ray::{name}"):
                found.append(process)
    return found


@pytest.mark.extended
@pytest.mark.parametrize(("blocks", "chunk"), [(9, 30), (1, 64), (1, 1000)])
def test_scores_and_columns_are_those_of_score_pairs(ray: Any, blocks: int, chunk: int) -> None:
    given = table(rows())
    ds = ray.data.from_arrow(cut(given, blocks))
    config = Config(model="mini", base_dir=ROOT, chunk_size=chunk)
    scored = score_dataset(ds, config, concurrency=None if blocks > 1 else 1).materialize()
    found = whole(scored)
    assert found.drop_columns(["similarity", "error"]) == given
    assert found.schema.field("similarity").type == pa.float64()
    assert found.schema.field("error").type == pa.string()
    assert scores(found) == expected(rows())
    assert sum(error is not None for _, error in scores(found)) > 10
    assert (scored.num_blocks() > 1) == (chunk < 100)
    for block in ray.get(scored.to_arrow_refs()):
        assert block["id"].to_pylist() == sorted(block["id"].to_pylist())


@pytest.mark.extended
def test_images_in_columns_are_scored_like_files(ray: Any) -> None:
    red = make_png("red")
    cells: list[dict[str, Any]] = [
        {"bytes": red, "path": "x"},
        {"bytes": None, "path": None},
        {"bytes": b"a.jpg", "path": None},
    ]
    given = pa.table(
        {"id": [0, 1, 2], "image": cells, "data": [cell["bytes"] for cell in cells], "caption": ["red"] * 3}
    )
    for name in ("image", "data"):
        found = whole(score_dataset(ray.data.from_arrow(given), MINI, col_url=name, concurrency=1))
        pairs = zip(given[name].to_pylist(), given["caption"].to_pylist(), strict=True)
        assert scores(found) == expected(list(pairs))
        assert [(error or "").partition(":")[0] for _, error in scores(found)] == ["", "invalid_url", "not_an_image"]
        assert found.select(given.column_names).to_pylist() == given.to_pylist()


def test_another_kind_of_table_is_named() -> None:
    with pytest.raises(
        InputTypeError, match=r"ds must be a Ray Dataset, not a pyarrow Table; create one with ray.data.from_pandas"
    ):
        score_dataset(pa.table({"url": ["a"], "caption": ["b"]}), MINI)


@pytest.mark.extended
def test_parquet_in_parquet_out(ray: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `score_csv` scores the table of `tests/doors/test_parity.py`, which has the other doors."""
    (tmp_path / "there").mkdir()
    source = faulty_and_challenge_set(tmp_path / "there", server)
    config = Config(model="mini", base_dir="there", retries=0, limits=LOCAL)
    monkeypatch.chdir(tmp_path)  # where relative paths start from; workers have another folder
    score_csv(source, tmp_path / "here.parquet", config)
    given = pq.read_table(source)
    (tmp_path / "in").mkdir()
    for number, part in enumerate(cut(given.rename_columns({"url": "picture", "caption": "words"}), 3)):
        pq.write_table(part, tmp_path / "in" / f"{number}.parquet")
    ds = ray.data.read_parquet(str(tmp_path / "in"))
    scored = score_dataset(ds, config, col_url="picture", col_text="words", concurrency=1, batch_size=60)
    scored.write_parquet(str(tmp_path / "out"), min_rows_per_file=1000)
    (out,) = (tmp_path / "out").iterdir()
    assert outcome(out) == outcome(tmp_path / "here.parquet")
    found = pq.read_table(out).sort_by("id").rename_columns({"picture": "url", "words": "caption"})
    assert found.select(given.column_names) == given


@pytest.mark.extended
def test_rows_come_out_while_others_are_still_to_be_read(ray: Any, server: Server) -> None:
    server.routes["/red.png"] = response(make_png())
    url = server.url("/red.png")
    ds = ray.data.range(100_000).map_batches(
        lambda batch: {"url": [f"{url}?{i}" for i in batch["id"]], "caption": ["red"] * len(batch["id"])}
    )
    config = Config(model="mini", chunk_size=200, limits=LOCAL)
    batches = iter(score_dataset(ds, config, concurrency=1).iter_batches(batch_size=None))
    first = next(batches)
    assert len(first["url"]) == 200
    assert len(set(first["similarity"])) == 1
    assert isinstance(batches, Generator)
    batches.close()
    assert server.hits.total() < 50_000


@pytest.mark.extended
def test_a_killed_actor_costs_no_row_and_doubles_none(ray: Any, server: Server) -> None:
    pictures = {f"/{name}.png": make_png(name) for name in ("red", "green", "blue")}
    server.routes |= {path: response(content) for path, content in pictures.items()}
    server.routes["/gate.png"] = server.hang
    pairs = [(server.url(f"/{('red', 'green', 'blue')[i % 3]}.png?{i}"), f"number {i}") for i in range(90)]
    pairs[50] = (server.url("/gate.png"), "the one that waits")
    killed: list[int] = []

    def kill() -> None:
        server.wait_for("/gate.png", 1, 180)  # the cluster may take its time to start on a busy machine
        for process in actors("MapWorker"):
            process.kill()
            killed.append(process.pid)
        server.routes["/gate.png"] = response(make_png("white"))

    killer = Thread(target=kill)
    killer.start()
    config = Config(model="mini", chunk_size=30, timeout_s=60, limits=Limits(**{**limits(), "total_s": 60.0}))
    found = whole(score_dataset(ray.data.from_arrow(table(pairs)), config, concurrency=1))
    killer.join()
    assert len(killed) == 1
    assert found["id"].to_pylist() == list(range(90))
    assert scores(found) == expected(pairs, config)
    assert all(error is None for _, error in scores(found))
    assert server.hits.total() > 2 * 90 + 1  # with those of `expected`: some rows were scored twice


def limits() -> dict[str, Any]:
    return {name: getattr(LOCAL, name) for name in ("allow_private_addresses", "per_host")}


@pytest.mark.extended
def test_a_model_that_is_not_there_ends_the_run(ray: Any) -> None:
    from ray.exceptions import RayError

    scored = score_dataset(ray.data.from_arrow(table(rows())), Config(model="./no-such-model"), concurrency=1)
    with pytest.raises(RayError, match=r"ModelNameError: model folder \./no-such-model does not exist"):
        scored.materialize()


def test_wrong_columns_are_refused(ray: Any) -> None:
    given = table(rows())
    with pytest.raises(UsageError, match="column 'picture' is missing from the dataset; it has the columns: id, url"):
        score_dataset(ray.data.from_arrow(given), MINI, col_url="picture")
    taken = given.append_column("error", given["url"])
    with pytest.raises(UsageError, match="the dataset already has a column 'error'"):
        score_dataset(ray.data.from_arrow(taken), MINI)


@pytest.mark.extended
def test_a_dataset_without_rows_stays_without(ray: Any) -> None:
    assert score_dataset(ray.data.from_arrow(table([])), MINI).take_all() == []


@pytest.mark.parametrize("concurrency", [0, (2, 1), (1, 2, 3), "2", 1.5, True])
def test_a_wrong_concurrency_is_refused(ray: Any, concurrency: Any) -> None:
    with pytest.raises(ConfigError, match="must be a number of actors"):
        score_dataset(ray.data.from_arrow(table(rows())), MINI, concurrency=concurrency)


@pytest.mark.parametrize(
    ("concurrency", "options", "warnings"),
    [(2, {}, 0), ((1, 2), {}, 0), ((1, 2), {"num_cpus": 2}, 1), (2, {"num_cpus": 1}, 1), (2, {"num_cpus": None}, 1)],
)
def test_actors_that_leave_no_cpu_are_told(
    ray: Any,
    caplog: pytest.LogCaptureFixture,
    concurrency: int | tuple[int, int],
    options: dict[str, Any],
    warnings: int,
) -> None:
    score_dataset(ray.data.from_arrow(table(rows())), MINI, concurrency=concurrency, **options)
    assert sum("leave at least one" in message for message in caplog.messages) == warnings


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.system.find_spec", lambda name: None)
    nothing: Any = None
    for call in (lambda: score_dataset(nothing, MINI), lambda: RayEngine({})):
        with pytest.raises(ConfigError, match=r'pip install "\.\[ray\]"'):
            call()


@pytest.mark.extended
def test_the_engine_scores_parts_in_order_from_several_threads(ray: Any) -> None:
    red = make_png("red")
    images = (red, {"bytes": red, "path": None}, memoryview(red), b"", b"a.jpg", red[:50])
    records = [*(Record(image, "red") for image in images), *(Record.of(*pair) for pair in rows())][:100]
    parts = [records[start : start + 20] for start in range(0, 100, 20)]
    right = [repr(result) for result in score_pairs(records, MINI)]
    with RayEngine({}) as cluster:  # all CPUs of this Ray, each time
        with pytest.raises(ModelUnavailableError, match=r"^model folder \./no-such-model does not exist$"):
            cluster.start(Config(model="./no-such-model"))
        for _ in range(2):  # tables
            info = cluster.start(Config(model="mini", base_dir=ROOT))
            assert info == load_encoder(MINI).info
            with ThreadPoolExecutor(4) as threads:
                found = [result for part in threads.map(cluster.score, parts) for result in part]
            assert [repr(result) for result in found] == right
            assert all(isinstance(result, ScoreResult) for result in found)
        assert len(actors("_Worker")) == 2
    assert ray.is_initialized()  # it was there before


@pytest.mark.extended
def test_the_engine_gets_over_a_killed_worker(ray: Any, server: Server) -> None:
    server.routes |= {"/gate.png": server.hang, "/red.png": response(make_png())}
    records = [Record(server.url("/red.png"), "red"), Record(server.url("/gate.png"), "red")]
    with RayEngine({"concurrency": "1"}) as cluster, ThreadPoolExecutor(1) as thread:
        cluster.start(Config(model="mini", limits=LOCAL))
        part = thread.submit(cluster.score, records)
        server.wait_for("/gate.png", 1)
        server.routes["/gate.png"] = response(make_png())
        (worker,) = actors("_Worker")
        worker.kill()
        first, second = part.result()
    assert first == second
    assert first.error is None


@pytest.mark.extended
def test_a_part_that_always_kills_its_worker_ends_the_run(
    ray: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_RETRIES", 1)

    def kill(*_: object) -> None:
        for process in actors("_Worker"):
            process.kill()

    server.routes["/deadly.png"] = kill
    with RayEngine({"concurrency": "1"}) as cluster:
        cluster.start(Config(model="mini", limits=LOCAL))
        with pytest.raises(TableError, match="a part of the table was not scored: Ray gave up") as caught:
            cluster.score([Record(server.url("/deadly.png"), "red")])
    assert caught.value.__cause__ is not None
    assert server.hits["/deadly.png"] == 2


@pytest.mark.extended
def test_the_engine_stops_while_parts_are_in_work(ray: Any, server: Server) -> None:
    server.routes["/gate.png"] = server.hang
    with ThreadPoolExecutor(1) as thread:
        with RayEngine({"concurrency": "1"}) as cluster:
            cluster.start(Config(model="mini", limits=LOCAL))
            part = thread.submit(cluster.score, [Record(server.url("/gate.png"), "red")])
            server.wait_for("/gate.png", 1)
        assert part.done()
        with pytest.raises(TableError):
            part.result()


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"adress": "auto"}, "'adress' is not a Ray setting; use one of concurrency, actor.num_cpus, .* address"),
        ({"concurrency": "none"}, "concurrency='none' must be a whole number of at least 1"),
        ({"concurrency": "2.5"}, "concurrency=2.5 must be a whole number of at least 1"),
        ({"actor.num_gpus": "-1"}, "actor.num_gpus=-1 must be"),
        ({"actor.num_cpus": "NaN"}, "actor.num_cpus=nan must be a number of at least 0"),
        ({"actor.num_gpus": "1"}, "Ray has 2 CPUs and 0 GPUs, which is not enough for a worker with 1 CPUs and 1 GPUs"),
        ({"actor.num_gpus": "1", "concurrency": "1"}, "Ray has 2 CPUs and 0 GPUs, which is not enough for a worker"),
    ],
)
def test_wrong_settings_of_the_engine_are_told(ray: Any, conf: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message), RayEngine(conf) as cluster:
        cluster.start(MINI)


@pytest.mark.extended
def test_workers_without_a_cpu_are_as_many_as_cpus(ray: Any) -> None:
    with RayEngine({"actor.num_cpus": "0"}) as cluster:
        cluster.start(MINI)
        assert cluster.at_once == 4


@pytest.mark.extended
def test_columns_that_are_known_late_are_refused_late(ray: Any) -> None:
    """The last one with this Ray, which keeps an actor's CPU for 20 seconds after an error."""
    from ray.exceptions import RayTaskError

    ds = ray.data.from_arrow(table(rows())).map_batches(lambda batch: batch.drop_columns("url"), batch_format="pyarrow")
    with pytest.raises(RayTaskError, match="UsageError: column 'url' is missing from the dataset"):
        score_dataset(ds, MINI, concurrency=1).materialize()


@pytest.mark.extended
def test_the_line_for_probabilities_adds_the_column(ray: Any) -> None:
    curve = load_calibration("mini")
    scored = ray.data.from_items([{"similarity": 0.3}, {"similarity": None}])
    found = eval(probability_line("Ray"), {"curve": curve, "scored": scored}).take_all()
    by_score = {row["similarity"]: row["probability"] for row in found}  # blocks come in any order
    assert by_score.pop(0.3) == pytest.approx(float(curve.probability(0.3)))
    ((missing, probability),) = by_score.items()
    assert pd.isna(missing)
    assert pd.isna(probability)
