"""What operators look at: a real Prometheus reads a real service, and answers every query that deploy/ asks it."""

from __future__ import annotations

import base64
import inspect
import json
import math
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.processes import Running, free_port, running, tool
from tests.support.server import Server, response
from tests.support.services import Process, process
from text_image_similarity.search.match_log import LogWriter

OBSERVABILITY = ROOT / "deploy" / "observability"
MONITORING = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((OBSERVABILITY / "grafana" / "service.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']}: {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
pytestmark = pytest.mark.server
RULES = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}
JOB = "text-image-similarity"
CONTRACT = {
    "tis_requests_total": {"route", "method", "status"},
    "tis_request_duration_seconds": {"route"},
    "tis_pairs_total": {"model", "result", "error_code"},
    "tis_stage_duration_seconds": {"stage", "model"},
    "tis_batch_size": {"model"},
    "tis_queue_depth": {"model"},
    "tis_queue_capacity": {"model"},
    "tis_queue_rejected_total": {"reason"},
    "tis_inflight_pairs": set(),
    "tis_cache_hits_total": {"kind", "model"},
    "tis_cache_lookups_total": {"kind", "model"},
    "tis_model_loads_total": {"model"},
    "tis_model_unloads_total": {"model"},
    "tis_model_bytes": {"model"},
    "tis_shared_cache_failures_total": {"model"},
    "tis_shared_cache_off": {"model"},
    "tis_matches_total": {"catalog", "result"},
    "tis_search_duration_seconds": {"stage", "catalog"},
    "tis_search_queue_depth": {"catalog"},
    "tis_result_cache_lookups_total": {"catalog", "result"},
    "tis_match_log_depth": {"catalog"},
    "tis_match_log_entries_total": {"catalog", "result"},
    "tis_score": {"model"},
    "tis_build_info": {"version", "python"},
    "tis_ready": set(),
}


def wave(service: Process, images: Server, colour: str) -> None:
    """Send what succeeds, what fails, what is in the cache the second time, and what is turned away."""
    new = base64.b64encode(make_png(colour)).decode()
    pairs = [
        {"image_url": images.url("/red.png"), "caption": "a red square"},
        {"image_base64": new, "caption": f"a {colour} square"},
        {"image_url": images.url("/none.png"), "caption": "a cat"},
        {"image_url": "data:,hello", "caption": "a dog"},
        {"image_url": images.url("/red.png"), "caption": ""},
    ]
    answer = httpx.post(f"{service.url}/v1/similarity", json={"pairs": pairs}, timeout=HANG_S)
    errors = [result["error"] and result["error"]["code"] for result in answer.json()["results"]]
    assert errors == [None, None, "http_4xx", "not_an_image", "empty_caption"]
    held, released = threading.Event(), threading.Event()

    def hold(connection: socket.socket, head: str) -> None:
        held.set()
        released.wait(HANG_S)
        connection.sendall(response(status="404 Not Found"))

    images.routes["/held.png"] = hold
    url = images.url("/held.png")
    full = {"pairs": [{"image_url": f"{url}?{i}", "caption": "a cat"} for i in range(8)]}
    with ThreadPoolExecutor() as pool:
        first = pool.submit(httpx.post, f"{service.url}/v1/similarity", json=full, timeout=HANG_S)
        assert held.wait(HANG_S)
        refused = httpx.post(f"{service.url}/v1/similarity", json={"pairs": pairs}, timeout=HANG_S)
        released.set()
        assert first.result().status_code == 200
    assert refused.status_code == 429
    search(service, colour)


def search(service: Process, colour: str) -> None:
    """Ask for what is there, what is not, what was asked just before, and what cannot be."""
    url, nothing = f"{service.url}/match-text", {"text": "a bag", "where": "price < 0"}
    for asked, status in (({"text": f"a {colour} bag"}, 200), (nothing, 200), (nothing, 200), ({"text": ""}, 422)):
        assert httpx.post(url, json=asked, timeout=HANG_S).status_code == status


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("log") / "matches.sqlite"
    catalog = ("--catalog", "sample=sample_catalog/products.csv", "--log-to", str(log))
    options = ("--max-inflight", "8", "--limit", "allow_private_addresses=true", "--retries", "0", "--drain-delay", "0")
    with process("--model", "mini", *options, *catalog, environment={"OMP_NUM_THREADS": "1"}) as found:
        yield found


@pytest.fixture(scope="module")
def prometheus(service: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Prometheus, after two waves of requests, each of which it has read."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "400ms", "evaluation_interval": "400ms"}
    config["rule_files"] = [str(OBSERVABILITY / path) for path in config["rule_files"]]
    (job,) = config["scrape_configs"]
    pod = {"namespace": "default", "pod": "scorer-1"}  # as a cluster's scrape job labels it
    job["static_configs"] = [{"targets": [service.url.removeprefix("http://")], "labels": pod}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    command = [
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    images = Server()
    images.routes["/red.png"] = response(make_png("red"))

    def has_read(found: Running, sent: int) -> bool:
        return count(found, 'tis_requests_total{route="/v1/models"}') > sent

    with images, running(command, port, folder / "prometheus.log", probe="/-/ready") as found:
        for sent, colour in enumerate(("green", "blue")):
            wave(service, images, colour)
            httpx.get(f"{service.url}/v1/models")
            found.wait_for(partial(has_read, found, sent))
        yield found


def ask(prometheus: Running, expression: str) -> list[float]:
    """Return the values of an expression's series."""
    answer = httpx.get(prometheus.url("/api/v1/query"), params={"query": expression}).json()
    assert answer["status"] == "success", (expression, answer)
    return [float(series["value"][1]) for series in answer["data"]["result"]]


def count(prometheus: Running, expression: str) -> float:
    return sum(ask(prometheus, expression))


def filled_in(expression: str) -> str:
    """Put in what Grafana puts in for its variables."""
    return expression.replace("$__rate_interval", "1m").replace("$model", ".+")


def without_threshold(expression: str) -> str:
    """Let a comparison say 0 or 1 instead of nothing or something."""
    return re.sub(r" (==|!=|<=|>=|<|>) ", r" \1 bool ", expression)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_the_dashboard_shows_something_in_every_panel(query: str, prometheus: Running) -> None:
    values = ask(prometheus, filled_in(query))
    assert values
    assert not all(math.isnan(value) for value in values)


@pytest.mark.parametrize("expression", ALERTS.values(), ids=ALERTS.keys())
def test_every_alert_has_something_to_judge(expression: str, prometheus: Running) -> None:
    judged = without_threshold(expression)
    assert judged != expression
    values = ask(prometheus, judged)
    assert values
    assert set(values) <= {0, 1}


def test_prometheus_takes_the_alerts_as_they_are(prometheus: Running) -> None:
    def evaluated() -> list[dict[str, str]]:
        (group,) = httpx.get(prometheus.url("/api/v1/rules")).json()["data"]["groups"]
        return group["rules"] if all(rule["health"] != "unknown" for rule in group["rules"]) else []

    rules = prometheus.wait_for(evaluated)
    assert {rule["name"] for rule in rules} == ALERTS.keys()
    assert {rule["health"] for rule in rules} == {"ok"}


def test_the_figures_are_those_of_what_was_sent(prometheus: Running) -> None:
    assert count(prometheus, 'tis_pairs_total{result="scored"}') == 4
    assert count(prometheus, 'tis_pairs_total{error_code="not_an_image"}') == 2
    assert count(prometheus, 'tis_queue_rejected_total{reason="inflight"}') == 2
    assert count(prometheus, 'tis_requests_total{route="/v1/similarity",status="429"}') == 2
    assert count(prometheus, "tis_cache_hits_total") > 0
    assert count(prometheus, "tis_score_count") == 4
    assert count(prometheus, "tis_ready") == 1
    results = {result: count(prometheus, f'tis_matches_total{{result="{result}"}}') for result in ("found", "empty")}
    assert results == {"found": 2, "empty": 4}
    assert count(prometheus, 'tis_matches_total{result="refused"}') == 2
    assert count(prometheus, 'tis_result_cache_lookups_total{result="hit"}') == 3
    assert count(prometheus, 'tis_search_duration_seconds_count{stage="search"}') == 3
    assert count(prometheus, 'tis_match_log_entries_total{result="written"}') == 8
    assert count(prometheus, 'tis_match_log_entries_total{result="lost"}') == 0
    assert ask(prometheus, '{__name__=~"tis_.*_created"}') == []


def test_the_models_to_choose_from_on_the_dashboard(prometheus: Running) -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    query = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert query is not None
    metric, label = query.groups()
    values = httpx.get(prometheus.url(f"/api/v1/label/{label}/values"), params={"match[]": metric}).json()["data"]
    assert values == ["mini"]


def test_the_autoscaler_gets_its_metric(prometheus: Running) -> None:
    folder = ROOT / "deploy" / "service" / "kubernetes"
    (rule,) = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    assert len(ask(prometheus, rule["seriesQuery"])) == 1
    query = rule["metricsQuery"]
    for part, value in {
        "<<.Series>>": "tis_queue_depth",
        "<<.LabelMatchers>>": 'namespace="default",pod=~"scorer-1|scorer-2"',
        "<<.GroupBy>>": "pod",
    }.items():
        assert part in query
        query = query.replace(part, value)
    (depth,) = ask(prometheus, query)
    assert 0 <= depth <= 64
    autoscaler = yaml.safe_load((folder / "autoscaler.yaml").read_text(encoding="utf-8"))
    pods = [metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert pods == [rule["name"]["as"]]


def test_the_metrics_are_those_agreed_on_and_no_others(service: Process, prometheus: Running) -> None:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{service.url}/metrics").text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name.startswith("tis_") and not name.endswith("_created"):  # which Prometheus is told to drop
            found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
            assert family.documentation
    assert found == CONTRACT


def test_every_metric_is_shown_and_explained() -> None:
    queries = " ".join([*QUERIES.values(), *ALERTS.values()])
    for name, labels in CONTRACT.items():
        assert re.search(rf"\b{name}(_bucket|_sum|_count)?\b", queries), name
        (row,) = re.findall(rf"^\| `{name}` \|([^|]*)\|", MONITORING, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == labels


def test_every_alert_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \| (critical|warning) \|", MONITORING, re.MULTILINE)
    assert dict(explained) == {rule["alert"]: rule["labels"]["severity"] for rule in RULES}


def test_the_log_s_bound_in_the_alerts_is_that_of_the_writer() -> None:
    most = inspect.signature(LogWriter).parameters["most"].default
    (rule,) = [rule for rule in RULES if rule["alert"] == "LogQueueGrows"]
    assert re.fullmatch(r".* > (\d+)", rule["expr"])[1] == str(most // 2)  # type: ignore[index]
    assert f"any beyond {most:,} will be lost" in rule["annotations"]["summary"]


@pytest.mark.extended
def test_the_alerts_go_off_when_they_should_and_only_then() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(
            [tool("promtool"), *command], cwd=OBSERVABILITY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    cases = yaml.safe_load((OBSERVABILITY / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    tried = [(case["alertname"], bool(case.get("exp_alerts"))) for test in cases for case in test["alert_rule_test"]]
    assert set(tried) == {(alert, fires) for alert in ALERTS for fires in (True, False)}


def test_the_panels_are_drawn_from_the_data_sources_that_exist() -> None:
    sources = yaml.safe_load((OBSERVABILITY / "grafana" / "datasources.yaml").read_text(encoding="utf-8"))
    known = {(source["type"], source["uid"]) for source in sources["datasources"]}
    used = [panel["datasource"] for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    used += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    used += [variable["datasource"] for variable in DASHBOARD["templating"]["list"]]
    assert {(source["type"], source["uid"]) for source in used} <= known
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    jobs = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert [job["job_name"] for job in jobs] == [JOB]
    assert set(re.findall(r'job="([^"]+)"', " ".join([*QUERIES.values(), *ALERTS.values()]))) == {JOB}
    shown = {cell for panel in DASHBOARD["panels"] for cell in _cells(panel["gridPos"])}
    assert len(shown) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in DASHBOARD["panels"])


def _cells(place: dict[str, int]) -> list[tuple[int, int]]:
    """Return the cells of the grid that a panel covers."""
    assert place["x"] + place["w"] <= 24
    return [(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])]
