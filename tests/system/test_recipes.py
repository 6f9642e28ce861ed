"""The recipes in deploy/, run as far as a machine without their clouds can: real handlers, real processes, real schemas."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.server import Server, response
from text_image_similarity import Config, StoppedError, score_csv, score_images

DEPLOY = ROOT / "deploy"
SHARDS = DEPLOY / "kubernetes" / "shards.py"
MINI: dict[str, Any] = {"model": "mini", "chunk_size": 10}
COLOURS = ("red", "green", "blue", "white")
T = TypeVar("T")


def load(path: Path, name: str) -> ModuleType:
    """Import a recipe, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_table(path: Path, rows: int) -> Path:
    """Write a table of red, green, blue and white pictures beside it; every ninth is missing."""
    for colour in COLOURS:
        (path.parent / f"{colour}.png").write_bytes(make_png(colour))
    lines = [
        f"{i:03},{'none' if i % 9 == 8 else COLOURS[i % 4]}.png,a {COLOURS[i % 3]} square {i}" for i in range(rows)
    ]
    path.write_text("id,url,caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def instructions(name: str) -> dict[str, list[str]]:
    """Return the instructions of a recipe's Dockerfile."""
    found: dict[str, list[str]] = {}
    text = (DEPLOY / name / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    return found


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """S3 on the loopback, as the environment's own."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem.clear_instance_cache()
        found = s3fs.S3FileSystem()
        for bucket in ("lake", "scores"):
            found.mkdir(bucket)
        yield found
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


# Kubernetes

ONE_THREAD = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}  # the processes do not fight for processors
WHOLE = """
import json, pathlib, sys
from text_image_similarity import Config, score_csv
for path in pathlib.Path(sys.argv[1], "in").glob("?.csv"):
    score_csv(path, pathlib.Path(sys.argv[1], path.name), Config(**json.loads(sys.argv[2])))
"""


def run_index(folder: Path, index: int) -> subprocess.Popen[str]:
    """Start a pod's process."""
    config = json.dumps({**MINI, "base_dir": str(folder / "in")})
    command = [sys.executable, str(SHARDS), "score", "in/*.csv", "out", "--shards=3", "--work-dir=work", "--job=j1"]
    environment = {**ONE_THREAD, "JOB_COMPLETION_INDEX": str(index)}
    return subprocess.Popen(
        [*command, f"--config={config}"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that succeeds, and return what it said."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    (folder / "in").mkdir()
    for i, rows in enumerate((12, 80, 8, 3, 5)):
        write_table(folder / "in" / f"{i}.csv", rows)
    return folder


@pytest.mark.extended
def test_the_indices_of_a_job_score_every_file_once_whatever_ends_them(job: Path) -> None:
    killed = run_index(job, 1)  # files 1 and 4
    (manifest,) = wait_for(lambda: list(job.glob("work/1.csv-*/manifest.jsonl")), killed)
    wait_for(lambda: manifest.read_bytes().count(b"\n") > 3, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (job / "out" / "1.csv").exists()
    write_table(job / "in" / "05.csv", 5)  # comes while the Job runs: would move all others to another index
    others = [run_index(job, index) for index in (0, 2)]
    assert "2 of 5 files" in finish(others[0])
    assert "1 of 5 files" in finish(others[1])
    assert finish(run_index(job, 1)).count(" rows, ") == 2
    assert sorted(path.name for path in (job / "out").glob("*.csv")) == [f"{i}.csv" for i in range(5)]
    subprocess.run([sys.executable, "-c", WHOLE, job, json.dumps(MINI)], env=ONE_THREAD, check=True)
    for i in range(5):
        assert (job / "out" / f"{i}.csv").read_bytes() == (job / f"{i}.csv").read_bytes()
    said = finish(run_index(job, 1))
    assert said.count("is complete") == 2
    assert " rows, " not in said
    write_table(job / "in" / "4.csv", 6)
    said = finish(run_index(job, 1))
    assert said.count("is complete") == 1
    assert "out/4.csv: 6 rows" in said


def wait_for(ready: Callable[[], T], process: subprocess.Popen[str]) -> T:
    """Return what a process brings about while it runs."""
    until = time.monotonic() + 60
    while not (found := ready()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    return found


def test_exit_codes_say_what_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = load(SHARDS, "shards")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.csv").write_text("id,picture\n1,red.png\n")
    write_table(tmp_path / "in" / "1.csv", 4)
    mini = f"--config={json.dumps(MINI)}"
    assert shards.main(["score", "in", "out", "--shards=1", mini]) == 2
    assert (tmp_path / "out" / "1.csv").exists()  # the bad table did not keep the good one from being scored
    (tmp_path / "in" / "0.csv").write_text('url,caption\n1,"red\n')
    (tmp_path / "in" / "2.csv").write_text("id,picture\n1,red.png\n")
    assert shards.main(["score", "in", "out", "--shards=1", mini]) == 1
    for wrong in ('--config={"modl": "mini"}', "--config=[1]", "--config={", "--index=7", '--config={"batch_size": 0}'):
        assert shards.main(["score", "in", "out", "--shards=1", wrong]) == 2
    assert shards.main(["score", "nothing/*.csv", "out", "--shards=1", mini]) == 2
    assert shards.main(["score", "in", "out", "--shards=1", '--config={"model": "/no/such/model"}']) == 2


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("in/*/x.csv", "out"),
        ("./in/*/x.csv", "out"),
        ("in//*/x.csv", "out"),
        ("{here}/./in/[ab]/x.csv", "out"),
        ("file://{here}/in/**/x.csv", "out"),
        ("in/**/**/x.csv", "out"),
        ("i?/**/*.csv", "out/in"),
    ],
)
def test_files_of_one_name_keep_their_folders(
    source: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = load(SHARDS, "shards")
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        write_table(tmp_path / "in" / name / "x.csv", 2 if name == "a" else 3)
    settings = ["--shards=1", f"--config={json.dumps(MINI)}"]
    assert shards.main(["score", source.format(here=tmp_path), "out", *settings]) == 0
    assert [(tmp_path / out / name / "x.csv").read_text().count("\n") for name in ("a", "b")] == [3, 4]
    assert len(list((tmp_path / "out").rglob("*.csv"))) == 2


def test_two_files_of_one_target_are_refused_before_any_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shards = load(SHARDS, "shards")
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        write_table(tmp_path / "in" / name / "x.csv", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_files-j.json").write_text('["in/a/x.csv", "in/b/x.csv", "in/c/x.csv"]')  # of another IN
    one = ["--job=j", "--shards=3", f"--config={json.dumps(MINI)}"]
    assert shards.main(["score", f"{tmp_path}/in/*/x.csv", "out", "--index=0", *one]) == 2
    assert "in/a/x.csv and in/b/x.csv would both be scored to out/x.csv" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_files-j.json"]


@pytest.mark.parametrize(
    ("listing", "said"),
    [
        ('["in/../../x.csv"]', "leads out of"),
        ('{"in/x.csv": 1}', "is not the listing of a Job"),
        ("[1]", "is not the listing of a Job"),
        ("[" * 100_000, "is not the listing of a Job"),
    ],
)
def test_a_listing_of_someone_else_leads_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, listing: str, said: str
) -> None:
    shards = load(SHARDS, "shards")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "a").mkdir(parents=True)
    write_table(tmp_path / "in" / "a" / "x.csv", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_files-j.json").write_text(listing)
    job = ["--job=j", "--shards=1", "--index=0", f"--config={json.dumps(MINI)}"]
    assert shards.main(["score", "in/*/x.csv", "out", *job]) in (1, 2)
    assert said in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_files-j.json"]


@pytest.mark.extended
def test_sigterm_ends_a_pod_between_two_parts(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_table(tmp_path / "in" / "1.csv", 80)
    process = run_index(tmp_path, 0)
    (manifest,) = wait_for(lambda: list(tmp_path.glob("work/1.csv-*/manifest.jsonl")), process)
    wait_for(lambda: manifest.read_bytes().count(b"\n") > 1, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "0 of 80 rows kept; the same command resumes" in said


@pytest.mark.extended
def test_a_job_reads_and_writes_a_store(store: Any, tmp_path: Path) -> None:
    shards = load(SHARDS, "shards")
    table = write_table(tmp_path / "a.csv", 12)
    for name in ("a.csv", "deep/b.csv", "deep/c.csv"):
        store.put_file(str(table), f"lake/job/{name}")
    config = json.dumps({**MINI, "base_dir": str(tmp_path)})
    common = ["--shards=2", "--job=j", f"--work-dir={tmp_path}/work", f"--config={config}"]
    assert shards.main(["score", "s3://lake/job/**/*.csv", "s3://scores/job", "--index=0", *common]) == 0
    store.put_file(str(table), "lake/job/0.csv")
    assert shards.main(["score", "s3://lake/job/**/*.csv", "s3://scores/job", "--index=1", *common]) == 0
    assert {name for name in store.find("scores/job") if name.endswith(".csv")} == {
        "scores/job/a.csv",
        "scores/job/deep/b.csv",
        "scores/job/deep/c.csv",
    }
    assert shards.targets_of(["s3://lake/a/x.csv", "s3://lake/b/x.csv"], "s3a://lake/*/x.csv", "s3://scores/") == {
        "s3://lake/a/x.csv": "s3://scores/a/x.csv",
        "s3://lake/b/x.csv": "s3://scores/b/x.csv",
    }


def test_a_table_is_split_by_host(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = load(SHARDS, "shards")
    hosts = [f"h{i % 23}.example" for i in range(3000)]
    lines = [f'{i:05},https://{host.upper() if i % 2 else host}/{i}.jpg,"a, {i}"' for i, host in enumerate(hosts)]
    (tmp_path / "in.csv").write_text("id,url,caption\n" + "\n".join(lines) + "\n09000,dog.jpg,NA\n09001,,\n")
    (tmp_path / "split").mkdir()
    (tmp_path / "mine").write_text("kept")
    planted = (
        tmp_path / "split" / ".shard-00000-of-00005.parquet.partial"
    )  # by someone else who may write to the folder
    planted.symlink_to(tmp_path / "mine")
    monkeypatch.setattr(shards, "WAITING_BYTES", 50_000)
    monkeypatch.setattr(shards, "BATCH_ROWS", 400)
    for target in (str(tmp_path / "split"), "s3://scores/split"):
        assert shards.main(["split", str(tmp_path / "in.csv"), target, "--shards=5"]) == 0
    assert (tmp_path / "mine").read_text() == "kept"
    planted.unlink()
    assert shards.main(["split", str(tmp_path / "in.csv"), str(tmp_path / "split"), "--shards=6"]) == 2
    names = sorted(path.name for path in (tmp_path / "split").iterdir())
    assert names == [f"shard-{i:05}-of-00005.parquet" for i in range(5)]
    tables = [pq.read_table(tmp_path / "split" / name) for name in names]
    assert pq.ParquetFile(tmp_path / "split" / names[0]).num_row_groups > 1
    of_host: dict[str, set[int]] = {}
    for shard, table in enumerate(tables):
        assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
        for url in table["url"].to_pylist():
            of_host.setdefault(url.lower().split("/")[2] if "//" in url else "", set()).add(shard)
    assert max(len(found) for host, found in of_host.items() if host) == 1
    assert len(set.union(*of_host.values())) == 5
    assert sorted(line for table in tables for line in zip(*table.to_pydict().values(), strict=True)) == sorted(
        [(f"{i:05}", line.split(",")[1], f"a, {i}") for i, line in enumerate(lines)]
        + [("09000", "dog.jpg", "NA"), ("09001", "", "")]
    )
    with store.open(f"scores/split/{names[3]}") as file:
        assert pq.read_table(file) == tables[3]


def test_the_job_is_valid_and_fits_its_image_and_script() -> None:
    import kubernetes_validate

    account, found = yaml.safe_load_all((DEPLOY / "kubernetes" / "job.yaml").read_text(encoding="utf-8"))
    for version in ("1.30", "1.33", "1.37"):
        for resource in (account, found):
            kubernetes_validate.validate(resource, version, strict=True)
    spec = found["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    image = instructions("kubernetes")
    assert image["USER"] == [str(pod["securityContext"]["runAsUser"])]
    assert image["ENTRYPOINT"] == ['["python", "/app/shards.py"]']
    assert f"{SHARDS.relative_to(DEPLOY.parent)} /app/" in image["COPY"]
    assert container["name"] == spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["containerName"]
    shards = load(SHARDS, "shards")
    options = shards.parser().parse_args(container["args"])
    assert options.shards == spec["completions"] >= spec["maxFailedIndexes"]
    assert shards.config_from(options.config).model == "mini"  # which every image has
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert options.work_dir.startswith("/work")
    assert mounts == {"/work", "/tmp"}
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy needs it


# AWS Lambda


class Context:
    """What Lambda says of an invocation: here, the time left, which runs down by the look."""

    def __init__(self, *left: int) -> None:
        self._left = list(left)

    def get_remaining_time_in_millis(self) -> int:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


def event(name: str, **replaced: str) -> Any:
    text = (ROOT / "tests" / "system" / "events" / f"{name}.json").read_text(encoding="utf-8")
    for word, value in replaced.items():
        text = text.replace(word, value)
    return json.loads(text)


@pytest.fixture(scope="module")
def function(store: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("function")
    settings = {**MINI, "retries": 0, "limits": {"allow_private_addresses": True}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCORE_CONFIG", json.dumps({**settings, "model_cache": str(folder / "cache")}))
        patch.setenv("RESULTS", "s3://scores/results")
        patch.setenv("TABLES", "s3://scores/tables/")
        patch.setenv("BUCKETS", "lake other")
        patch.setenv("WORK_DIR", str(folder / "parts"))
        yield load(DEPLOY / "lambda" / "handler.py", "handler")


def test_lambda_answers_pairs(function: ModuleType) -> None:
    good, file, empty = function.handler(event("direct"), Context(60_000))["results"]
    assert 0 < good["similarity"] < 1
    assert good["error"] is None
    assert file["error"].startswith("unsupported_scheme: ")
    assert empty == {"similarity": None, "error": empty["error"]}
    answered = function.handler(event("http"), Context(60_000))
    assert answered["statusCode"] == 200
    assert json.loads(answered["body"]) == {"results": [good]}
    assert function.handler(event("http_bad"), Context(60_000))["statusCode"] == 400
    with pytest.raises(ValueError, match="detail-type"):
        function.handler({"detail-type": "Scheduled Event"}, Context(60_000))


def test_lambda_sends_back_only_what_may_pass(function: ModuleType, store: Any, server: Server) -> None:
    server.routes["/busy.png"] = response(status="503 Busy")
    messages = event("sqs", SERVER=server.url(""))
    (again,) = function.handler(messages, Context(60_000))["batchItemFailures"]
    assert again == {"itemIdentifier": messages["Records"][2]["messageId"]}
    results = [json.loads(store.cat(name)) for name in sorted(store.ls("scores/results", refresh=True))]
    assert [result.get("id") for result in results] == [7, 8, None]
    assert results[0]["similarity"] > 0
    assert results[1]["error"].startswith("http_4xx: ")
    assert results[2]["body"] == "no JSON"
    assert results[2]["error"]
    server.routes["/busy.png"] = response(make_png())
    assert function.handler({"Records": [messages["Records"][2]]}, Context(60_000)) == {"batchItemFailures": []}
    assert len(store.ls("scores/results", refresh=True)) == 4


def test_lambda_takes_deep_json_as_a_message_that_is_no_pair(function: ModuleType, store: Any) -> None:
    deep = "[" * 100_000
    # Where in the stack it is parsed and where it is written decides which of these could be parsed but not written.
    bodies = [deep, *('{"a": ' + "[" * levels + "]" * levels + "}" for levels in range(200, 1000, 160))]
    records = [{"eventSource": "aws:sqs", "messageId": f"deep{at}", "body": body} for at, body in enumerate(bodies)]
    assert function.handler({"Records": records}, Context(60_000)) == {"batchItemFailures": []}
    for at, body in enumerate(bodies):
        assert json.loads(store.cat(f"scores/results/deep{at}.json"))["body"] == body
    assert function.handler({"requestContext": {}, "body": deep}, Context(60_000))["statusCode"] == 400


KEY = "pairs/new pairs (Müller).csv"


def coloured(rows: int) -> bytes:
    """Return a table whose pictures are in it."""
    red = event("direct")["pairs"][0]["url"]
    return ("id,url,caption\n" + "".join(f'{i:03},"{red}",a red square {i}\n' for i in range(rows))).encode()


def test_lambda_stops_a_table_in_time_and_goes_on(function: ModuleType, store: Any, tmp_path: Path) -> None:
    store.pipe(f"lake/{KEY}", coloured(60))
    with pytest.raises(StoppedError, match="30 of 60 rows kept"):
        function.handler(event("s3"), Context(90_000, 85_000, 70_000, 60_000, 40_000))
    assert not store.exists(f"scores/tables/lake/{KEY}")
    (done,) = function.handler(event("s3"), Context(90_000))["tables"]
    assert done == {"output": f"s3://scores/tables/lake/{KEY}", "rows": 60, "scored": 60, "failures": {}}
    (tmp_path / "in.csv").write_bytes(coloured(60))
    score_csv(tmp_path / "in.csv", tmp_path / "out.csv", Config(**MINI))
    assert store.cat(f"scores/tables/lake/{KEY}") == (tmp_path / "out.csv").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "said"), [("lake", "payroll", "not in BUCKETS"), (".csv", "*.csv", "several objects")]
)
def test_lambda_reads_no_table_that_a_message_merely_names(
    function: ModuleType, store: Any, caplog: pytest.LogCaptureFixture, old: str, new: str, said: str
) -> None:
    messages = event("s3_through_sqs", **{old: new})
    assert function.handler(messages, Context(90_000))["batchItemFailures"]
    assert said in caplog.text
    assert not store.exists("scores/tables/payroll")


def test_lambda_takes_tables_from_a_queue(function: ModuleType, store: Any) -> None:
    store.pipe(f"lake/{KEY}", coloured(5))
    messages = event("s3_through_sqs")
    (again,) = function.handler(messages, Context(90_000))["batchItemFailures"]
    assert again == {"itemIdentifier": messages["Records"][2]["messageId"]}  # its table is not there
    assert store.cat(f"scores/tables/lake/{KEY}").count(b"\n") == 6


def test_the_function_image_runs_the_handler() -> None:
    image = instructions("lambda")
    module, _, name = json.loads(image["CMD"][0])[0].rpartition(".")
    source = DEPLOY.parent / image["COPY"][-1].split()[0]
    assert source == DEPLOY / "lambda" / f"{module}.py"
    assert f"def {name}(" in source.read_text(encoding="utf-8")
    for found in (image, instructions("kubernetes")):
        assert re.fullmatch(r"BASE=\S+:\d+\.\d+\S*", found["ARG"][0])
        assert {stage.partition(" ")[0] for stage in found["FROM"]} <= {"${BASE}", "runtime", "cpu"}


# Airflow and Snowpark, each in an environment of its own, because their pins do not go with ours


def environment(name: str) -> Path:
    """Return the Python of a recipe's own environment."""
    python = ROOT / "build" / "recipes" / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is not installed: run make systems")
    return python


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the DAG for four days, in one process; return the folder and what was said. The first try of an a.csv is killed."""
    python = environment("airflow")
    home, folder = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("days")
    for day in ("2026-01-02", "2026-01-03", "2026-01-05"):
        (folder / "in" / day).mkdir(parents=True)
    write_table(folder / "in" / "2026-01-02" / "b.csv", 9)
    (folder / "in" / "2026-01-03" / "b.csv").write_text("id,picture\n1,red.png\n")
    write_table(folder / "in" / "2026-01-05" / "a.csv", 90)
    write_table(folder / "in" / "2026-01-05" / "b.csv", 7)
    scoring = home / "scoring_python"
    scoring.write_text(KILLED_ONCE.replace("PYTHON", sys.executable))
    scoring.chmod(0o755)
    settings = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DEPLOY / "airflow"),
        "SCORING_PYTHON": str(scoring),
        "PYTHONPATH": str(ROOT),
    }
    migrate: list[str | Path] = [python.with_name("airflow"), "db", "migrate"]
    subprocess.run(migrate, env=settings, capture_output=True, check=True)
    places = {"input": f"{folder}/in/{{day}}/*.csv", "output": f"{folder}/out/{{day}}", "model": "mini"}
    days: list[dict[str, object]] = [
        {},  # the day before the run's; in one process, `dag.test` keeps each parameter for the runs that follow
        {"day": "2026-01-03"},
        {"day": "2026-01-04"},
        {"day": "2026-01-05", "max_failure_share": 0.2},
    ]
    script = ROOT / "tests" / "system" / "recipes" / "airflow_run.py"
    command: list[str | Path] = [python, script, DEPLOY / "airflow", *(json.dumps({**places, **day}) for day in days)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    return folder, done.stdout


KILLED_ONCE = """#!/bin/sh
case "$*" in
  *" score "*) set -- "$@" --chunk-size 5;;
esac
case "$OUT" in
  */a.csv) if [ ! -e "$OUT.killed" ]; then
    "PYTHON" "$@" &
    while [ "$(wc -l < "$OUT.parts/manifest.jsonl" 2>/dev/null || echo 0)" -lt 3 ] && kill -0 $!; do sleep 0.01; done
    kill -9 $!
    wc -l < "$OUT.parts/manifest.jsonl" > "$OUT.killed"
    exit 137
  fi;;
esac
exec "PYTHON" "$@"
"""


def ended_runs(said: str) -> list[tuple[str, list[tuple[str, int, str, int]]]]:
    """Return what airflow_run.py says of each run: its state, and its tasks with state and tries."""
    return [json.loads(line) for line in said.splitlines() if line.startswith(('["success', '["failed'))]


@pytest.mark.extended
def test_airflow_scores_a_day_and_goes_on_after_a_kill(airflow: tuple[Path, str], tmp_path: Path) -> None:
    folder, said = airflow
    state, tasks = ended_runs(said)[3]
    assert state == "success", said
    assert {(task, number): tries for task, number, found, tries in tasks if found == "success"} == {
        ("places", -1): 1,
        ("list_files", -1): 1,
        ("score", 0): 2,  # killed once
        ("score", 1): 1,
        ("read_summaries", -1): 1,
        ("check", -1): 1,
    }
    assert "'rows': 97, 'scored': 87, 'failures': {'file_not_found': 10}" in said
    day, out = folder / "in" / "2026-01-05", folder / "out" / "2026-01-05"
    assert int((out / "a.csv.killed").read_text()) >= 3
    for name in ("a.csv", "b.csv"):
        score_csv(day / name, tmp_path / name, Config(model="mini", chunk_size=5))
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.extended
def test_airflow_fails_a_day_of_bad_rows_and_a_table_of_none(airflow: tuple[Path, str]) -> None:
    _, said = airflow
    first, second, third, _ = ended_runs(said)
    assert [first[0], second[0], third[0]] == ["failed"] * 3
    assert [task for task, _, found, _ in first[1] if found == "failed"] == ["check"]
    assert "11.1% of 9 rows failed, more than 5.0%" in said
    assert [(task, tries) for task, _, found, tries in second[1] if found == "failed"] == [
        ("score", 1)
    ]  # not tried again


@pytest.mark.extended
def test_snowpark_runs_the_functions_locally(tmp_path: Path) -> None:
    python = environment("snowpark")
    url = event("direct")["pairs"][0]["url"]
    (tmp_path / "red.txt").write_text(url)
    (tmp_path / "red.png").write_bytes(b64decode(url.partition(",")[2]))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    wheel = tmp_path / "text_image_similarity-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path in (ROOT / "text_image_similarity").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, path.relative_to(ROOT))
    script = ROOT / "tests" / "system" / "recipes" / "snowpark_run.py"
    command: list[str | Path] = [python, script, DEPLOY / "snowpark", wheel, tmp_path, sysconfig.get_path("purelib")]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env={**bare, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["first"], found["again"], found["late"]) == (5, 0, 1)
    assert "nulls or duplicates" in found["twice"]
    outcome, rows_after = found["cut_off"]
    assert "the warehouse is suspended" in str(outcome)
    assert rows_after == 6  # none was scored again
    for name in ("similarity", "Error", "score_pair_result"):
        assert f"other has a column {name.upper()} already" in found[name]
    assert [row["FOUND"] for row in found["table"]] == [f"found {row['ID']}" for row in found["table"]]
    rows = [(row["ID"], row["ERROR"] and row["ERROR"].partition(":")[0]) for row in found["table"]]
    assert rows == [(1, None), (2, "unsupported_scheme"), (3, "invalid_url"), (4, "empty_caption"), (5, None)]
    red = next(iter(score_images([(tmp_path / "red.png").read_bytes()], ["a red square"], Config(**MINI)))).similarity
    assert found["table"][0]["SIMILARITY"] == pytest.approx(red, abs=1e-6)
    assert [row["error"] and row["error"].partition(":")[0] for row in found["staged"]] == [
        None,
        "file_not_found",
        "not_an_image",
        "file_not_found",
    ]
    assert found["staged"][0]["similarity"] == pytest.approx(red, abs=1e-6)
    assert [row["error"] for row in found["batch"]] == [row["ERROR"] for row in found["table"]]
    assert found["batch"][0]["similarity"] == pytest.approx(red, abs=1e-6)
    assert found["index"] == [3, 1, 4, 1, 5]


def test_snowpark_reads_only_files_that_the_caller_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function has its owner's rights, and only a scoped URL proves the caller's."""
    asked: list[tuple[str, bool]] = []

    def opened(place: str, mode: str, *, require_scoped_url: bool = True) -> Any:
        asked.append((place, require_scoped_url))
        raise PermissionError(f"{mode}: it is not a scoped URL")

    files = SimpleNamespace(SnowflakeFile=SimpleNamespace(open=opened))
    monkeypatch.setitem(sys.modules, "snowflake.snowpark.files", files)
    udf = load(DEPLOY / "snowpark" / "score_udf.py", "score_udf")
    for place in ("https://account/api/files/1/2", "@hr/payslip.png", "file:///etc/passwd", "/etc/passwd"):
        assert udf.content_of(place) == f"{place}: PermissionError: rb: it is not a scoped URL"
    assert {scoped for _, scoped in asked} == {True}


def test_the_recipes_name_our_wheel_and_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    udf = load(DEPLOY / "snowpark" / "score_udf.py", "score_udf")
    wheel = f"text_image_similarity-{project['version']}-py3-none-any.whl"
    assert fnmatch(wheel, udf.WHEELS)
    theirs = {Requirement(text).name: Requirement(text) for text in udf.PACKAGES}
    for ours in map(Requirement, project["dependencies"]):
        if ours.name != "tqdm" and (ours.marker is None or ours.marker.evaluate()):  # that is of the command line
            assert theirs[ours.name].specifier == ours.specifier
    for name in ("kubernetes", "lambda"):
        assert any(fnmatch(f"dist/{wheel}", source) for source in instructions(name)["COPY"][0].split())
