"""The files that run and watch the service: linted, and held to each other and to the command."""

from __future__ import annotations

import argparse
import fnmatch
import ipaddress
import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from scripts import small_requirements
from tests.support.pages import fenced
from tests.support.paths import ROOT
from tests.support.processes import tool
from text_image_similarity import Config
from text_image_similarity.cli import serve
from text_image_similarity.cli.environment import variable_of
from text_image_similarity.fetch import addresses
from text_image_similarity.service import Settings, create_app
from text_image_similarity.service.settings import KEYS_VARIABLE, TRACES_VARIABLE

SERVICE = ROOT / "deploy" / "service"
OBSERVABILITY = ROOT / "deploy" / "observability"
OPERATING = "\n".join(
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("operating", "service-containers", "service-kubernetes", "monitoring", "service-security")
)
COMPOSE = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))
WATCHERS = yaml.safe_load((OBSERVABILITY / "compose.yaml").read_text(encoding="utf-8"))
CATALOG = yaml.safe_load((SERVICE / "compose.catalog.yaml").read_text(encoding="utf-8"))
SCORERS = {name: service for name, service in COMPOSE["services"].items() if name.startswith("scorer-")}
KUBERNETES = SERVICE / "kubernetes"
PORT = 8000


def options(arguments: list[str]) -> argparse.Namespace:
    """Read arguments of `serve` as the command does, which ends the test if it does not know one."""
    parser = argparse.ArgumentParser()
    serve.add(parser.add_subparsers())
    return parser.parse_args(["serve", *arguments])


def routes() -> set[str]:
    """Return the paths that the service answers."""
    return set(create_app(Settings(models={"mini": Config(model="mini")})).openapi()["paths"])


def time_to_end(found: argparse.Namespace) -> float:
    """Return the most seconds that a service takes to end: the delay, and a request whose body and answer take all they may."""
    return float(found.drain_delay_s + 2 * found.request_timeout_s)


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, in order."""
    text = re.sub(r"\\\n(#.*\n)*", " ", (SERVICE / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], " ".join(line.split(" ", 1)[1].split())) for line in lines]


def of(word: str) -> list[str]:
    """Return what the instructions of one kind say."""
    return [rest for found, rest in instructions() if found == word]


def entrypoint() -> list[str]:
    words: list[str]
    (words,) = map(json.loads, of("ENTRYPOINT"))
    assert words[:2] == ["text-image-similarity", "serve"]
    return words[2:]


# The image


def test_hadolint_has_nothing_to_say_about_the_image() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, SERVICE / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_starts_the_service_as_a_user_without_rights() -> None:
    for command in map(json.loads, of("CMD")):
        found = options([*entrypoint(), *command])
        assert (found.host, found.port, found.log_format) == ("0.0.0.0", PORT, "json")
    assert of("EXPOSE") == [str(found.port)]
    assert of("USER") == ["10001"]
    (check,) = of("HEALTHCHECK")
    (probe,) = re.findall(rf"http://127\.0\.0\.1:{PORT}(/\w+)", check)
    assert probe == "/readyz"
    assert probe in routes()


def test_the_image_gets_what_the_wheel_and_its_extras_are_called() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wheel = f"{project['name'].replace('-', '_')}-{project['version']}-py3-none-any.whl"
    installs = [found for line in of("RUN") for found in re.findall(r"\$\(echo (/tmp/\S+)\)\"", line)]
    assert len(installs) == 2
    assert all(fnmatch.fnmatch(f"/tmp/{wheel}", pattern) for pattern in installs)
    asked = [line for line in of("RUN") if "-r " in line]
    assert ['-r "/tmp/$REQUIREMENTS"' in line for line in asked] == [True, False]
    assert f"REQUIREMENTS={(default := 'small-serve.txt')}" in of("ARG")
    assert {
        default,
        CATALOG["services"]["scorer-1"]["build"]["args"]["REQUIREMENTS"],
    } <= small_requirements.FILES.keys()
    tags = {service["image"].partition(":")[2] for service in SCORERS.values()}
    assert tags == {"cpu"}


def test_every_stage_is_used_and_the_last_one_is_for_the_processor() -> None:
    stages = {line.split(" AS ")[1]: line.split(" AS ")[0] for line in of("FROM")[:-1]}
    used = set(stages.values()) | {match[1] for line in of("COPY") if (match := re.match(r"--from=(\S+)", line))}
    assert stages.keys() - used == {"models", "cuda"}
    assert of("FROM")[-1] == "cpu"
    assert {service["build"]["target"] for service in SCORERS.values()} <= stages.keys()
    assert {image for image in stages.values() if image not in stages} == {"${BASE}"}
    assert re.fullmatch(r"BASE=python:\d+\.\d+-slim-\w+", of("ARG")[0])


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    ignore = (SERVICE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line[1:] for line in ignore if line.startswith("!")]
    assert "*" in ignore
    copied = {source for line in of("COPY") if not line.startswith("--from") for source in line.split()[:-1]}
    assert len(copied) == 7
    for source in copied:
        assert any(fnmatch.fnmatch(source, pattern) for pattern in sent), source
        assert list(ROOT.glob(source)) or source.startswith("dist/")
    assert all(any(fnmatch.fnmatch(source, pattern) for source in copied) for pattern in sent)


def test_the_models_that_are_exported_are_those_that_are_served() -> None:
    (run,) = [line for line in of("RUN") if "text-image-similarity export" in line]
    assert '"/models/${model##*/}"' in run
    for service in SCORERS.values():
        models = service["build"]["args"]["MODELS"].split()
        assert options(service["command"]).models == [f"{model}=/models/{model}" for model in models]


def test_the_image_gets_the_versions_that_are_tested_here() -> None:
    script = SERVICE / "constraints.py"
    done = subprocess.run([sys.executable, script, "poetry.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    pairs = [line.split("==") for line in done.stdout.splitlines()]
    found = dict(pairs)
    assert len(found) == len(pairs), "pip takes no two versions of a package"
    for name in ("fastapi", "httpx", "numpy", "onnxruntime", "psycopg", "redis", "torch", "transformers", "uvicorn"):
        assert found[name] == version(name).partition("+")[0]


# Compose


@pytest.mark.parametrize("compose", [COMPOSE, WATCHERS], ids=["service", "observability"])
def test_images_are_pinned_and_what_is_mounted_exists(compose: dict[str, dict[str, dict[str, Any]]]) -> None:
    folder = SERVICE if compose is COMPOSE else OBSERVABILITY
    for service in compose["services"].values():
        if "build" not in service:  # what is built here has the version of what is here
            assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), service["image"]
        for volume in service.get("volumes", []):
            source, _, *mode = volume.split(":")
            if source.startswith("."):
                assert (folder / source).is_file(), source
                assert mode == ["ro"]
            else:
                assert source in compose["volumes"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:") or compose is COMPOSE


def test_two_replicas_have_time_to_end_and_rights_to_nothing() -> None:
    assert list(SCORERS) == ["scorer-1", "scorer-2"]
    for service in SCORERS.values():
        found = options([*entrypoint(), *service["command"]])
        assert service["expose"] == [str(found.port)]
        assert float(service["stop_grace_period"].removesuffix("s")) > time_to_end(found)
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["environment"]["OMP_NUM_THREADS"] == service["deploy"]["resources"]["limits"]["cpus"]
        assert all(service["environment"][name].endswith(":-}") for name in (KEYS_VARIABLE, TRACES_VARIABLE))
    assert COMPOSE["services"]["nginx"]["depends_on"] == {name: {"condition": "service_healthy"} for name in SCORERS}
    used = set(SCORERS["scorer-1"]["environment"]) - {"OMP_NUM_THREADS", "FORWARDED_ALLOW_IPS"}  # which uvicorn reads
    assert used == {KEYS_VARIABLE, TRACES_VARIABLE, variable_of("--allowed-host")}


def test_a_page_of_another_site_cannot_use_what_is_published_on_this_machine() -> None:
    """Such a page can make its own name resolve to 127.0.0.1, so services answer to few names."""
    variable = variable_of("--allowed-host")
    for service in SCORERS.values():
        default = service["environment"][variable].removeprefix(f"${{{variable}:-").removesuffix("}")
        assert default.split() == list(SCORERS)  # the names that Prometheus uses
    triton = yaml.safe_load((ROOT / "deploy" / "triton" / "compose.yaml").read_text(encoding="utf-8"))
    assert options(triton["services"]["scorer"]["command"]).allowed_hosts == ["localhost"]


def test_who_watches_finds_what_is_watched() -> None:
    services = {**COMPOSE["services"], **WATCHERS["services"]}

    def listens(name: str) -> set[int]:
        ports = services[name].get("expose", []) + services[name].get("ports", [])
        return {int(port.rpartition(":")[2]) for port in ports}

    def reached(address: str) -> None:
        name, _, port = address.removeprefix("http://").partition(":")
        assert int(port) in listens(name), address

    config = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (targets,) = [static["targets"] for static in job["static_configs"]]
    assert [target.partition(":")[0] for target in targets] == list(SCORERS)
    sources = yaml.safe_load((OBSERVABILITY / "grafana" / "datasources.yaml").read_text(encoding="utf-8"))
    collector = yaml.safe_load((OBSERVABILITY / "collector.yaml").read_text(encoding="utf-8"))
    exporters = [exporter["endpoint"] for exporter in collector["exporters"].values()]
    (told,) = set(re.findall(r"OTEL_EXPORTER_OTLP_ENDPOINT=(http://\S+)", OPERATING))
    for address in (*targets, *exporters, told, *(source["url"] for source in sources["datasources"])):
        reached(address)
    assert WATCHERS["networks"]["default"] == {"name": COMPOSE["networks"]["default"]["name"], "external": True}
    mounted = [volume.split(":")[1] for volume in WATCHERS["services"]["prometheus"]["volumes"]]
    for rules in config["rule_files"]:
        assert f"/etc/prometheus/{rules}" in mounted
    provider = yaml.safe_load((OBSERVABILITY / "grafana" / "dashboards.yaml").read_text(encoding="utf-8"))
    grafana = WATCHERS["services"]["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in [volume.split(":")[1] for volume in grafana["volumes"]]
    assert str(Path(home).parent) == provider["providers"][0]["options"]["path"]


def test_the_collector_s_pipelines_are_made_of_what_is_configured() -> None:
    collector = yaml.safe_load((OBSERVABILITY / "collector.yaml").read_text(encoding="utf-8"))
    pipelines = collector["service"]["pipelines"]
    assert list(pipelines) == ["traces"]
    for part in ("receivers", "processors", "exporters"):
        assert set(pipelines["traces"][part]) == collector[part].keys()
    assert pipelines["traces"]["processors"][0] == "memory_limiter"  # as its documentation wants
    ports = {
        protocol["endpoint"].rpartition(":")[2] for protocol in collector["receivers"]["otlp"]["protocols"].values()
    }
    assert ports == set(WATCHERS["services"]["collector"]["expose"])


# Kubernetes


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """The resources of the kustomization, by kind."""
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    found = [yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8")) for name in names]
    return {resource["kind"]: resource for resource in found}


def test_the_manifests_are_valid_and_all_there(manifests: dict[str, dict[str, Any]]) -> None:
    kinds = ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"]
    assert list(manifests) == kinds
    for release in ("1.30", "1.33", "1.37"):
        for resource in manifests.values():
            kubernetes_validate.validate(resource, release, strict=True)


def test_everything_that_is_deployed_decodes_in_processes_of_their_own() -> None:
    """Each recipe that opens pictures, read as what runs it reads it; a new one must be named here or not open any."""

    def read(path: str, kind: str | None = None) -> Any:
        found = yaml.safe_load_all((ROOT / "deploy" / path).read_text(encoding="utf-8"))
        return next(each for each in found if kind in (None, each.get("kind")))

    scorers = [
        *(service["command"] for name in ("compose", "compose.catalog") for key, service in
          read(f"service/{name}.yaml")["services"].items() if key.startswith("scorer-")),
        read("service/kubernetes/deployment.yaml", "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"],
        read("triton/compose.yaml")["services"]["scorer"]["command"],
    ]  # fmt: skip
    assert len(scorers) == 6
    assert all(options(arguments).isolate_decoder for arguments in scorers)
    job = read("kubernetes/job.yaml", "Job")["spec"]["template"]["spec"]["containers"][0]["args"]
    (settings,) = [argument.partition("=")[2] for argument in job if argument.startswith("--config=")]
    assert json.loads(settings)["isolate_decoder"] is True
    service = read("ray/rayservice.yaml", "RayService")
    for serve_config in (read("ray/serve.yaml"), yaml.safe_load(service["spec"]["serveConfigV2"])):
        (application,) = serve_config["applications"]
        assert all(model["isolate_decoder"] is True for model in application["args"]["models"].values())
    local = read("ray/serve.yaml")
    assert (local["http_options"]["host"], local["applications"][0]["args"]["allowed_hosts"]) == (
        "127.0.0.1",
        ["localhost"],
    )
    scripts = {
        "lambda/handler.py": '"isolate_decoder": True',
        "spark/score_job.py": "isolate_decoder=True",
        "airflow/score_pairs_dag.py": "--isolate-decoder",
        "service/kubernetes-catalog/upkeep.yaml": "--isolate-decoder",
    }
    for script, asked in scripts.items():
        assert asked in (ROOT / "deploy" / script).read_text(encoding="utf-8"), script


def test_the_pods_run_the_command_and_are_asked_for_routes_that_exist(manifests: dict[str, dict[str, Any]]) -> None:
    spec = manifests["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    found = options([*entrypoint(), *container["args"]])
    assert container["ports"] == [{"name": "http", "containerPort": found.port}]
    assert pod["terminationGracePeriodSeconds"] > time_to_end(found)
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    for probe in probes.values():
        assert probe["httpGet"]["path"] in routes()
        assert probe["httpGet"]["port"] == "http"
    unready = probes["readiness"]["periodSeconds"] * probes["readiness"]["failureThreshold"]
    assert found.drain_delay_s >= unready
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts.values())
    for path in (found.api_key_file, Path(found.embedding_cache)):
        assert str(path.parent) in mounts
    annotations = spec["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(found.port)
    assert annotations["prometheus.io/path"] in routes()


def test_the_pods_have_rights_to_nothing(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert [str(pod["securityContext"]["runAsUser"])] == of("USER")
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def test_the_manifests_select_the_pods_and_the_autoscaler_keeps_two(manifests: dict[str, dict[str, Any]]) -> None:
    deployment = manifests["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(
            c["labelSelector"]["matchLabels"]
            for c in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert len(selectors) == 6
    assert all(selector == labels for selector in selectors)
    (port,) = manifests["Service"]["spec"]["ports"]
    assert port["targetPort"] == "http"
    autoscaler = manifests["HorizontalPodAutoscaler"]["spec"]
    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert autoscaler["minReplicas"] == 2
    assert "replicas" not in deployment["spec"]
    (waiting,) = [metric["pods"]["target"] for metric in autoscaler["metrics"] if metric["type"] == "Pods"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert int(waiting["averageValue"]) == options(container["args"]).max_queue / 4


def test_the_volume_of_the_cache_holds_what_the_service_keeps(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    sizes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume}
    gib = {name: int(size.removesuffix("Gi")) for name, size in sizes.items()}
    assert gib["cache"] * 2**30 > 1.1 * 1_000_000 * 2_300  # bytes of an entry of 512 numbers, with its key and index
    (container,) = pod["containers"]
    for kind in ("requests", "limits"):
        assert int(container["resources"][kind]["ephemeral-storage"].removesuffix("Gi")) >= sum(gib.values())


def test_the_network_policy_lets_out_what_the_fetcher_may_dial(manifests: dict[str, dict[str, Any]]) -> None:
    policy = manifests["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    (web,) = [rule for rule in policy["egress"] if any("ipBlock" in to for to in rule["to"])]
    assert [port["port"] for port in web["ports"]] == [80, 443]
    blocks = [
        (ipaddress.ip_network(to["ipBlock"]["cidr"]), [ipaddress.ip_network(net) for net in to["ipBlock"]["except"]])
        for to in web["to"]
    ]

    def reachable(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(ip in whole and not any(ip in net for net in nets) for whole, nets in blocks)

    for metadata in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"):
        assert not reachable(ipaddress.ip_address(metadata)), metadata
    inner = [net for _, nets in blocks for net in nets if net[0] not in (whole[0] for whole, _ in blocks)]
    edges = [edge for net in inner for edge in (net[0] - 1, net[0], net[-1])]
    edges += [net[-1] + 1 for net in inner if net[-1] not in (whole[-1] for whole, _ in blocks)]
    edges += [edge for net in map(ipaddress.ip_network, addresses._DENIED) for edge in (net[0], net[-1])]
    edges += map(
        ipaddress.ip_address, ("0.0.0.1", "8.8.8.8", "2606:4700::1111", "::1", "fe80::1", "fc00::1", "ff02::1")
    )
    assert len(edges) > 120
    for ip in edges:
        assert reachable(ip) == (addresses.why_denied(ip) is None), ip


def test_a_changed_key_or_setting_rolls_the_pods_over(manifests: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))
    (secret,), (settings,) = kustomization["secretGenerator"], kustomization["configMapGenerator"]
    assert pod["volumes"][-1]["secret"]["secretName"] == secret["name"]
    assert pod["containers"][0]["envFrom"] == [{"configMapRef": {"name": settings["name"]}}]
    assert Path(options(pod["containers"][0]["args"]).api_key_file).name in secret["files"]
    assert (KUBERNETES / ".gitignore").read_text(encoding="utf-8").split() == secret["files"]
    shutil.copytree(KUBERNETES, tmp_path / "k")
    images = set()
    names = set()
    for key in ("one", "two"):
        (tmp_path / "k" / "api-keys.txt").write_text(f"{key}\n", encoding="utf-8")
        command = [tool("kubectl"), "kustomize", str(tmp_path / "k")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        (built,) = [item for item in yaml.safe_load_all(done.stdout) if item["kind"] == "Deployment"]
        images.add(built["spec"]["template"]["spec"]["containers"][0]["image"])
        names.add(built["spec"]["template"]["spec"]["volumes"][-1]["secret"]["secretName"])
    assert len(names) == 2
    (image,) = images
    assert image == f"{kustomization['images'][0]['newName']}:VERSION-cpu"


# What the pages say


def test_the_commands_on_the_pages_are_understood() -> None:
    commands = [line for block in fenced(OPERATING, "sh") for line in block.splitlines()]
    served = [shlex.split(line)[2:] for line in commands if line.startswith("text-image-similarity serve ")]
    served += [
        [*entrypoint(), *words.split()]
        for words in re.findall(r"text-image-similarity:cpu (--model [\w=/]+)", OPERATING)
    ]
    assert len(served) == 5
    for arguments in served:
        assert options(arguments).models
    for path in set(re.findall(r"deploy/[\w/.-]+", OPERATING)) - {"deploy/service/kubernetes/api-keys.txt"}:
        assert (ROOT / path.rstrip(".")).exists(), path


def test_the_times_on_the_pages_are_those_of_the_files(manifests: dict[str, dict[str, Any]]) -> None:
    rows = re.findall(r"^\| (\w+) \| (\d+) s \| (\d+) s \| (\d+) s[^|]* \| `", OPERATING, re.MULTILINE)
    times = {name: tuple(map(int, numbers)) for name, *numbers in rows}
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    scorer = SCORERS["scorer-1"]
    for name, arguments, killed in (
        ("Kubernetes", pod["containers"][0]["args"], pod["terminationGracePeriodSeconds"]),
        ("compose", scorer["command"], int(scorer["stop_grace_period"].removesuffix("s"))),
        ("systemd", [], 90),
    ):
        found = options(arguments)
        assert times[name] == (found.drain_delay_s, found.request_timeout_s, killed)
        assert killed > time_to_end(found)
