"""The service on Ray with fake deployments: its arguments, its pool of models, lost replicas and their reports."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clock import HANG_S
from tests.support.pages import fenced
from tests.support.paths import ROOT
from tests.support.services import mini_settings
from text_image_similarity.config import Config
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import ConfigError, DeviceLostError, ErrorCode, RowError
from text_image_similarity.records import ScoreResult
from text_image_similarity.service.clients import current
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.jobs import Answer, Pair
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.ray.arguments import Replicas, apply_environment, read_arguments
from text_image_similarity.service.ray.pool import ClusterMetrics, RayModelPool, Report
from text_image_similarity.service.telemetry.metrics import Metrics

# Ray's own, when its schemas are made
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Using extra keyword arguments on `Field`:DeprecationWarning:ray.serve._private.config"
    ),
]
PAIR = Pair("data:,x", "a")
ANSWER = Answer("mini", [ScoreResult(0.5)], [[]])


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Let Ray be what the other tests need, which it reads when it is imported, and let looks follow each other quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setattr("text_image_similarity.service.ray.pool._LOOK_EVERY_S", 0.01)
        yield


class Response:
    """What a call of a deployment returns: it can be awaited once."""

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome
        self.cancelled = False

    def __await__(self) -> Any:
        if self._outcome is None:  # it takes for ever
            yield from asyncio.Event().wait().__await__()
        if isinstance(self._outcome, Exception) and not isinstance(self._outcome, ProblemError):
            raise self._outcome
        return self._outcome

    def cancel(self) -> None:
        self.cancelled = True

    async def results_async(self, **_: object) -> Any:
        return await self


class Deployment:
    """A handle of a deployment.

    Args:
        outcomes: What comes of one call after the other; None never comes.
        reports: What its replicas say.
    """

    def __init__(self, *outcomes: Any, name: str = "model-mini", reports: Any = ()) -> None:
        self.deployment_name = name
        self._outcomes = list(outcomes)
        self.calls: list[tuple[Any, ...]] = []
        self.responses: list[Response] = []
        self.reports = reports
        self.asked = 0

    @property
    def score(self) -> Deployment:
        return self

    embed_images = embed_texts = score

    def remote(self, *call: Any) -> Response:
        self.calls.append(call)
        self.responses.append(Response(self._outcomes.pop(0)))
        return self.responses[-1]

    def broadcast(self, method: str) -> Response:
        assert method == "report"
        self.asked += 1
        return Response(self.reports)


def pool_of(*outcomes: Any, peers: Any = (), **changes: Any) -> tuple[RayModelPool, Deployment]:
    handle = Deployment(*outcomes)
    handles: dict[str, Any] = {"mini": handle}
    gateways: Any = Deployment(name="gateway", reports=peers)
    return RayModelPool(mini_settings(**changes), handles, gateways, ClusterMetrics("gateway#1")), handle


def dead() -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def away() -> Exception:
    from ray.exceptions import ActorUnavailableError

    return ActorUnavailableError("no answer", None)


@pytest.mark.parametrize("lost", [[], [dead], [dead, away]])
def test_a_request_that_is_lost_is_sent_again(lost: list[Callable[[], Exception]]) -> None:
    pool, handle = pool_of(*(error() for error in lost), ANSWER)
    assert asyncio.run(pool.score(None, [PAIR], "unit")) is ANSWER
    assert [call[:2] for call in handle.calls] == [([PAIR], "unit")] * (len(lost) + 1)
    times = [call[2] for call in handle.calls]
    assert 29 < times[-1] <= times[0] <= 30
    assert pool.refusal() is None


def test_a_request_that_is_lost_three_times_is_refused() -> None:
    pool, handle = pool_of(dead(), dead(), dead(), ANSWER)
    with pytest.raises(ProblemError) as found:
        asyncio.run(pool.score("mini", [PAIR], "cosine"))
    assert (found.value.code, found.value.status) == ("model_unavailable", 503)
    assert "Retry-After" in found.value.headers
    assert len(handle.calls) == 3


def test_an_error_of_ours_is_not_tried_again() -> None:
    from ray.exceptions import RayTaskError

    pool, handle = pool_of(RayTaskError("run", "", ValueError("ours")), ANSWER)
    with pytest.raises(RayTaskError):
        asyncio.run(pool.score("mini", [PAIR], "cosine"))
    assert len(handle.calls) == 1


def test_refusals_of_ray_and_of_a_replica_are_told() -> None:
    from ray.serve._private.common import DeploymentID
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    told = ProblemError("queue_full", "64 pairs wait for mini", retry_after_s=3, reason="queue_full")
    outcomes = (told, BackPressureError(8, 8), DeploymentUnavailableError(DeploymentID("model-mini", "x")))
    pool, _ = pool_of(*outcomes)
    found = []
    for _ in outcomes:
        with pytest.raises(ProblemError) as problem:
            asyncio.run(pool.score("mini", [PAIR], "cosine"))
        found.append((problem.value.code, problem.value.reason, problem.value.headers["Retry-After"]))
    assert found == [
        ("queue_full", "queue_full", "3"),
        ("queue_full", "queue_full", "1"),
        ("model_unavailable", None, "30"),
    ]
    with pytest.raises(ProblemError, match="unknown_model"):
        asyncio.run(pool.score("x", [PAIR], "cosine"))


def test_a_replica_that_hangs_costs_a_requests_time_and_no_more() -> None:
    pool, handle = pool_of(None, None, None, request_timeout_s=0.01)
    scores = asyncio.run(pool.score("mini", [PAIR, PAIR], "cosine"))
    assert [result.error for result in scores.results] == [
        "timeout: the service did not finish within its limit of 0.01 s"
    ] * 2
    images = asyncio.run(pool.embed_images("mini", [b"x", "data:,x"]))
    texts = asyncio.run(pool.embed_texts("mini", ["a"]))
    for outcome in (*images.results, *texts.results):
        assert isinstance(outcome, RowError)
        assert outcome.code == ErrorCode.TIMEOUT
    assert [len(answer.spans) for answer in (scores, images, texts)] == [2, 2, 1]
    assert [call[0] for call in handle.calls] == [[PAIR, PAIR], [b"x", "data:,x"], ["a"]]
    assert all(response.cancelled for response in handle.responses)


def test_who_leaves_ends_the_call_and_makes_room() -> None:
    pool, handle = pool_of(None, ANSWER, max_inflight=1)

    async def leave() -> None:
        task = asyncio.create_task(pool.score("mini", [PAIR], "cosine"))
        async with asyncio.timeout(10):
            while not handle.calls:
                await asyncio.sleep(0)
        with pytest.raises(ProblemError) as found:
            await pool.score("mini", [PAIR], "cosine")
        assert (found.value.code, found.value.reason) == ("queue_full", "inflight")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert handle.responses[0].cancelled
        assert await pool.score("mini", [PAIR], "cosine") is ANSWER

    asyncio.run(leave())


def test_one_client_has_at_most_half_of_a_gateways_room_and_replicas_are_told_whose_work_it_is() -> None:
    pool, handle = pool_of(None, ANSWER, max_inflight=2)

    async def ask() -> None:
        current.set("greedy")
        task = asyncio.create_task(pool.score("mini", [PAIR], "cosine"))
        async with asyncio.timeout(HANG_S):
            while not handle.calls:
                await asyncio.sleep(0)
        with pytest.raises(ProblemError) as found:
            await pool.score("mini", [PAIR], "cosine")
        assert (found.value.code, found.value.reason) == ("queue_full", "inflight")
        assert pool.refusal() is not None
        current.set("honest")
        assert pool.refusal() is None
        assert await pool.score("mini", [PAIR], "cosine") is ANSWER
        assert [call[-1] for call in handle.calls] == ["greedy", "honest"]
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(ask())


def test_all_that_gateways_may_have_in_progress_takes_turns_in_a_replica() -> None:
    """Ray's own queues have one order for all clients."""
    from text_image_similarity.service.ray.deployment import build

    args = {"models": {"mini": {}, "own": {"model": "mini", "max_ongoing_requests": 7}}}
    gateway: Any = build({**args, "max_inflight": 10, "gateway": {"max_replicas": 3}})
    models = gateway._bound_deployment.init_args[1]
    assert {name: each._bound_deployment.max_ongoing_requests for name, each in models.items()} == {
        "mini": 30,
        "own": 7,
    }


def report(name: str, unready: ProblemError | None = None) -> Report:
    metrics = Metrics()
    metrics.watch("mini", lambda: 3, 64)
    return Report(name, unready, {"embed_dim": 256}, list(metrics.registry.collect()))


def watched(*reports: Any, peers: Any = ()) -> RayModelPool:
    """Return a pool that has looked at what is there, once after the other."""
    pool, handle = pool_of(peers=peers)

    async def look() -> None:
        for handle.reports in reports:
            handle.asked = 0
            async with asyncio.timeout(10):
                await pool.start()
                while handle.asked < 2:
                    await asyncio.sleep(0.01)
                await pool.close()

    asyncio.run(look())
    return pool


def test_it_is_ready_while_each_model_has_a_replica_that_is() -> None:
    sick = report("model-mini#a", ProblemError("model_unavailable", "mini has encoded nothing for 60 s"))
    assert watched([sick, report("model-mini#b")]).unready() is None
    for reports, detail in (
        ([sick], "mini has encoded nothing for 60 s"),
        ([], "no replica of mini responds"),
        ([dead()], "no replica of mini responds"),
    ):
        pool = watched(reports)
        problem = pool.unready()
        assert problem is not None
        assert problem.detail == detail
        assert pool.dead() is None


def test_only_who_is_known_to_be_gone_is_forgotten_at_once() -> None:
    from ray.serve._private.common import DeploymentID
    from ray.serve.exceptions import DeploymentUnavailableError

    well = [report("model-mini#a")]
    assert watched(well, TimeoutError()).unready() is None
    assert watched(well, DeploymentUnavailableError(DeploymentID("model-mini", "x"))).unready() is not None


def test_what_is_not_heard_of_for_a_while_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = watched([report("model-mini#a")])
    assert pool.models() == {"mini": {"embed_dim": 256}}
    monkeypatch.setattr("text_image_similarity.service.ray.pool._FRESH_S", 0.0)
    assert pool.models() == {"mini": None}
    assert pool.unready() is not None


def test_metrics_are_those_of_all_replicas_each_with_its_name() -> None:
    peers = [report("gateway#1"), report("gateway#2")]  # the first is this one
    text = watched([report("model-mini#a"), report("model-mini#b")], peers=peers)._metrics.render().decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    depth = next(family for family in families if family.name == "tis_queue_depth")
    assert [(sample.labels, sample.value) for sample in depth.samples] == [
        ({"model": "mini", "replica": "model-mini#a"}, 3.0),
        ({"model": "mini", "replica": "model-mini#b"}, 3.0),
        ({"model": "mini", "replica": "gateway#2"}, 3.0),
    ]
    info = next(family for family in families if family.name == "tis_build_info")
    assert [sample.labels["replica"] for sample in info.samples] == [
        "gateway#1",
        "model-mini#a",
        "model-mini#b",
        "gateway#2",
    ]


class Fragile(ColourEncoder):
    """An encoder that a caption ends."""

    def encode_text(self, texts: Sequence[str]) -> Any:
        if "the end" in texts:
            raise DeviceLostError("the device is gone")
        return super().encode_text(texts)


def test_a_replica_whose_model_is_lost_fails_its_check_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from text_image_similarity.service.ray import deployment

    load = partial(LocalModelPool, load=lambda config: Fragile())
    monkeypatch.setattr("text_image_similarity.service.inference.local.LocalModelPool", load)
    monkeypatch.setattr(deployment, "_get_replica_name", lambda: "model-mini#a")
    monkeypatch.setattr(deployment, "_log_with_ray", lambda: None)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    image = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="

    async def asking(*_: object, **__: object) -> Any:
        return current.get()

    async def lose() -> None:
        replica = object.__new__(deployment.ModelReplica)
        await deployment.ModelReplica.__init__(replica, mini_settings())
        await replica.check_health()
        assert (await replica.report()).unready is None
        answer = await replica.score([Pair(image, "red")], "cosine", 30, "shop")
        assert isinstance(answer, Answer)
        assert answer.results == [ScoreResult(1.0)]
        for embedded in (
            await replica.embed_images([image], 30, "shop"),
            await replica.embed_texts(["red"], 30, "shop"),
        ):
            assert isinstance(embedded, Answer)
            assert np.asarray(embedded.results[0]).tolist() == [1.0, 0.0, 0.0]
        full = ProblemError("queue_full", "full")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replica._pool, "score", lambda *_, **__: _raise(full))
            assert await replica.score([PAIR], "cosine", 30, "shop") is full
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replica._pool, "score", asking)
            whose: Any = await replica.score([PAIR], "cosine", 30, "shop")
            assert whose == "shop"
        assert ended == []
        await replica.score([Pair(image, "the end")], "cosine", 30, "shop")
        assert ended == [1]
        with pytest.raises(RuntimeError, match="the device is gone"):
            await replica.check_health()
        await replica._pool.close()

    asyncio.run(lose())


async def _raise(problem: ProblemError) -> None:
    raise problem


def test_problems_reports_and_answers_travel() -> None:
    problem = ProblemError("queue_full", "full", retry_after_s=3, reason="queue_full", errors=[1])
    there = pickle.loads(pickle.dumps(report("a", problem)))
    assert (there.unready.code, there.unready.headers, there.unready.members, there.unready.reason) == (
        "queue_full",
        {"Retry-After": "3"},
        {"errors": [1]},
        "queue_full",
    )
    assert [family.name for family in there.families] == [family.name for family in report("a").families]
    assert pickle.loads(pickle.dumps(ANSWER)) == ANSWER


# Arguments


def test_arguments_make_settings() -> None:
    plan = read_arguments(
        {
            "models": {"a": "mini", "b": {"model": "mini", "num_gpus": 0.5, "batch_size": 8, "max_replicas": 3}},
            "splits": {"canary": {"a": 95, "b": 5}},
            "limits": {"allow_private_addresses": True},
            "max_queue": 7,
            "api_keys": ["k"],
            "num_cpus": 2,
            "batch_size": 16,
            "gateway": {"min_replicas": 2},
            "log_format": "json",
        }
    )
    settings = plan.settings
    assert list(settings.models) == ["a", "b"]
    assert [config.batch_size for config in settings.models.values()] == [16, 8]
    limits = settings.models["b"].limits
    assert (limits.allow_private_addresses, limits.allow_local_files) == (True, False)
    assert (settings.splits, settings.max_queue, settings.api_keys) == (
        {"canary": {"a": 95, "b": 5}},
        7,
        (ApiKey("k"),),
    )
    assert plan.models == {"a": Replicas(num_cpus=2), "b": Replicas(num_cpus=2, num_gpus=0.5, max_replicas=3)}
    assert (plan.gateway, plan.log_format) == (Replicas(min_replicas=2), "json")


def test_the_command_lines_texts_are_read() -> None:
    texts = {"models": "fast,mini", "max_queue": "7", "isolate_decoder": "true", "splits": '{"x": {"fast": 1}}'}
    plan = read_arguments(texts)
    assert {name: config.model for name, config in plan.settings.models.items()} == {"fast": "fast", "mini": "mini"}
    assert (plan.settings.max_queue, plan.settings.models["mini"].isolate_decoder) == (7, True)
    assert plan.settings.splits == {"x": {"fast": 1}}
    assert list(read_arguments({}).settings.models) == ["fast"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (
            {"modles": "fast"},
            "the service has no argument 'modles'; the arguments are allowed_hosts, api_keys, audit_log, backend, ",
        ),
        ({"lazy": True}, "the service has no argument 'lazy'"),
        (
            {"models": {"a": {"replicas": 2}}},
            "model a has no argument 'replicas'; the arguments are backend, batch_size, ",
        ),
        ({"models": 3}, "models=3 must be a mapping of names to models"),
        ({"models": {"a": 3}}, "model a: 3 must be a model's name, or a mapping"),
        ({"models": {"a": {"min_replicas": 0}}}, "model a: min_replicas=0 must be at least 1"),
        ({"models": {"a": {"min_replicas": 3, "max_replicas": 2}}}, "model a: max_replicas=2 must be at least 3"),
        ({"num_gpus": -1}, "model fast: num_gpus=-1.0 must be at least 0"),
        ({"target_ongoing_requests": 0}, "model fast: target_ongoing_requests=0.0 must be more than 0"),
        ({"batch_size": 0}, "model fast: batch_size=0 must be a whole number of at least 1"),
        ({"max_queue": "many"}, "the service: max_queue: Input should be a valid integer"),
        ({"splits": {"x": {"no": 1}}}, "the service: splits: x names 'no'"),
        ({"splits": "{x"}, "splits: {x is not valid JSON"),
        ({"limits": {"bytes": 1}}, "limits has no argument 'bytes'"),
        ({"gateway": 2}, "gateway=2 must be a mapping"),
        ({"gateway": {"max_ongoing_requests": 2}}, "the gateway has no argument 'max_ongoing_requests'"),
        ({"log_format": "xml"}, "log_format='xml' is not one of text, json"),
    ],
)
def test_wrong_arguments_are_named(args: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as found:
        read_arguments(args)
    assert str(found.value).startswith(told)


def test_keys_and_collector_come_from_the_environment_if_not_from_arguments() -> None:
    environment = {
        "TEXT_IMAGE_SIMILARITY_API_KEYS": " k1,k2 ,",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    }
    settings = apply_environment(mini_settings(), environment)
    assert (settings.api_keys, settings.otlp_endpoint) == ((ApiKey("k1"), ApiKey("k2")), "http://127.0.0.1:4318")
    assert apply_environment(mini_settings(api_keys=("own",)), environment).keys == (ApiKey("own"),)
    assert apply_environment(mini_settings(), {}).otlp_endpoint is None


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from text_image_similarity.service.ray import deployment

    monkeypatch.setattr("text_image_similarity.system.is_installed", lambda name: name != "fastapi")
    with pytest.raises(ConfigError, match=r'needs fastapi: pip install "\.\[ray,serve\]"'):
        deployment.build({})


# The page, and the files in deploy/ray


def test_the_page_names_every_argument_and_its_examples_are_right() -> None:
    page = (ROOT / "docs" / "ray_serve.md").read_text(encoding="utf-8")
    (example,) = fenced(page, "yaml")
    assert list(read_arguments(yaml.safe_load(example)).settings.models) == ["fast", "accurate", "next"]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall("`([a-z_]+)`", row)
    }
    with pytest.raises(ConfigError) as found:
        read_arguments({"none": 1})
    of_the_service = set(str(found.value).partition("the arguments are ")[2].split(", "))
    assert named - {"model", "revision"} == of_the_service
    commands = [line.split() for block in fenced(page, "console") for line in block.splitlines()]
    for words in commands:
        if words[1:3] == ["serve", "run"] and words[3].endswith(":build"):
            assert read_arguments(dict(word.split("=", 1) for word in words[4:]))


def test_the_config_files_are_ray_serves_and_kuberays() -> None:
    import kubernetes_validate
    from ray.serve.schema import ServeDeploySchema

    folder = ROOT / "deploy" / "ray"
    service, *policies = yaml.safe_load_all((folder / "rayservice.yaml").read_text(encoding="utf-8"))
    inner = service["spec"]["serveConfigV2"]
    for text in ((folder / "serve.yaml").read_text(encoding="utf-8"), inner):
        (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
        assert application.import_path == "text_image_similarity.service.ray.deployment:build"
        assert list(read_arguments(application.args).models) == ["fast"]

    # What KubeRay's API reference says of ray.io/v1
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    assert set(service["spec"]) == {
        "excludeHeadPodFromServeSvc",
        "upgradeStrategy",
        "serveConfigV2",
        "rayClusterConfig",
    }
    assert set(cluster) == {
        "rayVersion",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "authOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    (workers,) = cluster["workerGroupSpecs"]
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    assert set(workers) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        for version in ("1.30", "1.33", "1.37"):
            kubernetes_validate.validate(pod, version, strict=True)
    for version, policy in product(("1.30", "1.33", "1.37"), policies):
        kubernetes_validate.validate(policy, version, strict=True)
    plan = read_arguments(yaml.safe_load(inner)["applications"][0]["args"])
    needed = sum(one.num_cpus * one.min_replicas for one in (*plan.models.values(), plan.gateway))
    assert needed <= 4 * workers["minReplicas"]


def test_rays_pods_need_keys_and_reach_nothing_private() -> None:
    text = (ROOT / "deploy" / "ray" / "rayservice.yaml").read_text(encoding="utf-8")
    service, nodes, workers, head = yaml.safe_load_all(text)
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    keys, audit, forwarded = group["template"]["spec"]["containers"][0]["env"]
    assert forwarded == {"name": "FORWARDED_ALLOW_IPS", "value": ""}
    assert audit == {"name": "TEXT_IMAGE_SIMILARITY_AUDIT_LOG", "value": "-"}
    assert keys["name"] == "TEXT_IMAGE_SIMILARITY_API_KEYS"
    assert not keys["valueFrom"]["secretKeyRef"].get("optional", False)
    assert nodes["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not any("ipBlock" in to for rule in nodes["spec"]["egress"] for to in rule["to"])
    plain = yaml.safe_load((ROOT / "deploy" / "service" / "kubernetes" / "network.yaml").read_text(encoding="utf-8"))
    web = [rule for rule in plain["spec"]["egress"] if any("ipBlock" in to for to in rule["to"])]
    assert workers["spec"]["egress"] == web  # which tests/system/test_deploy.py holds to what the fetcher may dial
    (rule,) = head["spec"]["egress"]
    assert {"169.254.0.0/16", "168.63.129.16/32"} <= set(rule["to"][0]["ipBlock"]["except"])


def test_the_image_has_the_rays_version_that_the_files_name() -> None:
    dockerfile = (ROOT / "deploy" / "ray" / "Dockerfile").read_text(encoding="utf-8")
    text = Path(ROOT / "deploy" / "ray" / "rayservice.yaml").read_text(encoding="utf-8")
    version = yaml.safe_load(text.split("\n---\n")[0])["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"ARG BASE=rayproject/ray:{version}-" in dockerfile
    assert f"\nray=={version} \\\n" in (ROOT / "requirements" / "full-ray.txt").read_text(encoding="utf-8")


def test_a_model_is_found_among_the_configured_ones_and_none_is_added() -> None:
    pool, handle = pool_of()
    assert asyncio.run(pool.serve_model(Config(model="mini"))) == "mini"
    with pytest.raises(ProblemError, match=r"shop/one \(revision v2\) is not served here.*`models`") as found:
        asyncio.run(pool.serve_model(Config(model="shop/one", revision="v2")))
    assert found.value.code == "model_unavailable"
    assert list(pool.models()) == ["mini"]
    assert handle.calls == []
