"""The files that run Triton: linted, and held to each other, to the server's own options and to the versions tested here."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from scripts import small_requirements
from tests.support.paths import ROOT
from tests.support.processes import tool
from text_image_similarity.cli import serve

TRITON = ROOT / "deploy" / "triton"
DOCKERFILE = (TRITON / "Dockerfile").read_text(encoding="utf-8")
SERVICES = yaml.safe_load((TRITON / "compose.yaml").read_text(encoding="utf-8"))["services"]
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}  # Triton's own defaults
PAGE = (ROOT / "docs" / "triton.md").read_text(encoding="utf-8")


def built(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what kubectl makes of a kustomization, by kind."""
    command = [tool("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    return built(TRITON / "kubernetes")


def container(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (found,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_hadolint_has_nothing_to_say_about_the_image() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, TRITON / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_gets_the_versions_that_are_tested_here() -> None:
    text = (TRITON / "requirements.txt").read_text(encoding="utf-8")
    assert text == small_requirements.triton_text(), "run: python -m scripts.small_requirements"
    pinned = dict(re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE))
    for name in ("pillow", "tokenizers", "safetensors", "onnxruntime", "sentencepiece"):
        assert pinned[name] == version(name)
    assert pinned["numpy"] == "1.26.4"
    assert "--require-hashes" in DOCKERFILE


@pytest.mark.server
def test_the_server_knows_the_options_and_listens_where_it_is_asked(manifests: dict[str, dict[str, Any]]) -> None:
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in DOCKERFILE.splitlines() if line.startswith("CMD ")]
    assert command == SERVICES["triton"]["command"] == container(manifests)["args"]
    done = subprocess.run([tool("tritonserver"), "--help"], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    for option in command[1:]:
        assert option.partition("=")[0] in said
    for name, port in PORTS.items():
        assert f"Default is {port}." in said.partition(f"  --{name}-port <integer>")[2].partition("\n  --")[0]
    assert re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE) == [" ".join(map(str, PORTS.values()))]
    assert [port["containerPort"] for port in container(manifests)["ports"]] == list(PORTS.values())


def test_the_service_beside_it_finds_its_towers() -> None:
    parser = argparse.ArgumentParser()
    serve.add(parser.add_subparsers())
    scorer, triton = SERVICES["scorer"], SERVICES["triton"]
    found = parser.parse_args(["serve", *scorer["command"]])
    place = urlsplit(found.triton_url)
    assert SERVICES[place.hostname] is triton
    assert place.port == PORTS[place.scheme]
    assert scorer["depends_on"] == {place.hostname: {"condition": "service_healthy"}}
    mounted = [volume.rsplit(":", 2) for volume in triton["volumes"]]
    assert [mode for *_, mode in mounted] == ["ro"]
    assert triton["volumes"] == scorer["volumes"]
    assert f"--model-repository={mounted[0][1]}" in triton["command"]
    assert found.models == [f"fast={mounted[0][1]}"]
    assert serve.settings_of(found, {}).names == ("fast",)
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_the_manifests_are_valid_and_select_the_pods(manifests: dict[str, dict[str, Any]]) -> None:
    assert manifests.keys() == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    for release in ("1.30", "1.37"):
        for resource in manifests.values():
            kubernetes_validate.validate(resource, release, strict=True)
    spec = manifests["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == manifests["Service"]["spec"]["selector"]
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    policy = manifests["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    names = {port["name"] for port in container(manifests)["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} <= names
    assert "egress" not in policy
    claim = spec["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]
    assert f"`{claim['claimName']}`" in PAGE


def test_the_pods_have_shared_memory_and_rights_to_nothing(manifests: dict[str, dict[str, Any]]) -> None:
    pod, triton = manifests["Deployment"]["spec"]["template"]["spec"], container(manifests)
    mounts = {mount["mountPath"]: mount["name"] for mount in triton["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == set(mounts.values())
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert f"USER {pod['securityContext']['runAsUser']}" in DOCKERFILE
    assert triton["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert triton["resources"]["limits"]["memory"] == triton["resources"]["requests"]["memory"]
    pause = int(triton["lifecycle"]["preStop"]["exec"]["command"][1])
    ready = triton["readinessProbe"]
    assert pause >= ready["periodSeconds"] * ready["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > pause + 30  # what the server gives requests to end


def test_the_other_kustomization_adds_a_gpu_and_nothing_else(manifests: dict[str, dict[str, Any]]) -> None:
    overlay = yaml.safe_load((TRITON / "kubernetes-gpu" / "kustomization.yaml").read_text(encoding="utf-8"))
    assert overlay.keys() == {"apiVersion", "kind", "resources", "patches"}
    assert overlay["resources"] == ["../kubernetes"]
    (patch,) = overlay["patches"]
    deployment = manifests[patch["target"]["kind"]]
    assert deployment["metadata"]["name"] == patch["target"]["name"]
    (change,) = yaml.safe_load(patch["patch"])
    *way, name = [part.replace("~1", "/") for part in change["path"].split("/")[1:]]
    place: Any = deployment
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    assert (change["op"], change["value"], name in place) == ("add", 1, False)
    limits = place | {name: change["value"]}
    assert limits == container(manifests)["resources"]["limits"] | {"nvidia.com/gpu": 1}
    (service,) = yaml.safe_load((TRITON / "compose.gpu.yaml").read_text(encoding="utf-8"))["services"]
    assert service in SERVICES


def test_the_files_on_the_page_exist() -> None:
    found = set(re.findall(r"deploy/triton[\w/.-]*", PAGE))
    assert len(found) >= 4
    for path in found:
        assert (ROOT / path.rstrip(".")).exists(), path
