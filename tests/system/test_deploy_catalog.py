"""The files that run a catalogue: held to each other, to the schemas and to the command, and their commands run on PostgreSQL."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from tests.support.clock import HANG_S
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.postgres import postgres_server, schema_at
from tests.support.processes import tool
from tests.support.services import process
from tests.system.test_deploy import COMPOSE, KUBERNETES, SERVICE, entrypoint, options
from text_image_similarity.cli.main import main, make_parser
from text_image_similarity.search.stores.open import STORES_VARIABLE, check_kind
from text_image_similarity.service.settings import CACHE_VARIABLE

OVERLAY = SERVICE / "kubernetes-catalog"
CATALOG = yaml.safe_load((SERVICE / "compose.catalog.yaml").read_text(encoding="utf-8"))
SERVICES = CATALOG["services"]
PAGE = (ROOT / "docs" / "catalog-service.md").read_text(encoding="utf-8")
DEPLOY = "\n".join(blocks("catalog-service.md", "## Deploy", "sh"))
COMMANDS = [shlex.split(line, comments=True) for line in DEPLOY.splitlines() if line]
PLACE = "postgresql://postgres/catalog"
UPKEEP = ("optimize", "prune", "reindex")


# Compose


def test_both_replicas_do_what_they_did_and_search() -> None:
    before = COMPOSE["services"]["scorer-1"]
    for scorer in (SERVICES["scorer-1"], SERVICES["scorer-2"]):
        assert scorer["command"][: len(before["command"])] == before["command"]
        found = options([*entrypoint(), *scorer["command"]])
        assert found.catalogs == [f"shop={PLACE}"]
        assert found.match_log == "queued"
        assert found.log_place is None  # with the catalogue
        assert str(found.api_key_file) == f"/run/secrets/{scorer['secrets'][0]}"
        assert set(scorer["networks"]) == {"default", "data"}
        assert scorer["environment"][CACHE_VARIABLE].startswith("redis://redis:6379/")
        assert scorer["environment"]["PGSERVICEFILE"] == f"/run/secrets/{scorer['secrets'][1]}"
        assert scorer["depends_on"] == {name: {"condition": "service_healthy"} for name in ("postgres", "redis")}


def test_the_databases_are_watched_and_out_of_reach() -> None:
    assert CATALOG["networks"]["data"]["internal"]
    for name in ("postgres", "redis", "qdrant"):
        service = SERVICES[name]
        assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"])
        assert service["networks"] == ["data"]
        assert not {"ports", "expose"} & service.keys()
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert service["read_only"]
        assert service["tmpfs"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service.get("user", "root") != "root" or service["image"].endswith("-unprivileged")
    volumes = {volume.split(":")[0] for name in ("postgres", "qdrant") for volume in SERVICES[name]["volumes"]}
    assert volumes == CATALOG["volumes"].keys()
    assert SERVICES["qdrant"]["profiles"] == ["qdrant"]
    (store,) = re.findall(r"`--store (qdrant://\S+)`", PAGE)
    check_kind(store, PLACE)
    assert store.startswith("qdrant://qdrant:6333/")
    for name in ("scorer-1", "scorer-2", "catalog"):  # whoever else writes to the database names no other place
        assert SERVICES[name]["environment"][STORES_VARIABLE] == store


def test_secrets_are_files_that_git_does_not_take() -> None:
    assert (SERVICE / ".gitignore").read_text(encoding="utf-8").split() == ["secrets/"]
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == CATALOG["secrets"].keys()
    made = set(re.findall(r"> (secrets/\S+)", DEPLOY))
    assert made == {secret["file"].removeprefix("./") for secret in CATALOG["secrets"].values()}
    shown = yaml.safe_dump(SERVICES)
    assert not re.search(r"(?i)password(?!_FILE|\b)", shown.replace("postgres-password", ""))


# Kubernetes


Built = dict[tuple[str, str], dict[str, Any]]  # by kind and name


def read(folder: Path) -> Iterator[dict[str, Any]]:
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]:
        if (folder / name).is_dir():
            yield from read((folder / name).resolve())
        else:
            yield from yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))


def patched(item: Any, path: list[str], op: str, value: Any) -> None:
    """Apply one operation of a JSON patch."""
    for part in path[:-1]:
        item = item[int(part)] if isinstance(item, list) else item[part]
    if isinstance(item, list):
        assert (op, path[-1]) == ("add", "-")
        item.append(value)
    else:
        assert (path[-1] in item) == (op == "replace")
        item[path[-1]] = value


@pytest.fixture(scope="module")
def built() -> Built:
    """What the kustomization makes, without the hashes in names and what is secret.

    Not by kubectl: Debian's is of 2020 and does not know patches within a kustomization.
    """
    found = {(item["kind"], item["metadata"]["name"]): item for item in read(OVERLAY)}
    for folder in (KUBERNETES, OVERLAY):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        for map in kustomization["configMapGenerator"]:
            data = dict(literal.split("=", 1) for literal in map["literals"])
            item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": map["name"]}, "data": {}}
            found.setdefault(("ConfigMap", map["name"]), item)["data"] |= data
        for secret in kustomization["secretGenerator"]:
            item = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret["name"]}, "type": "Opaque"}
            found["Secret", secret["name"]] = item | {"data": dict.fromkeys(secret["files"], "")}
        for patch in kustomization.get("patches", []):
            target = found[patch["target"]["kind"], patch["target"]["name"]]
            for each in yaml.safe_load(patch["patch"]):
                patched(target, each["path"].split("/")[1:], each["op"], each["value"])
    return found


def of_kind(built: Built, kind: str) -> dict[str, dict[str, Any]]:
    """Return what is of a kind, by the part of its name that is its own."""
    return {
        name.removeprefix("text-image-similarity").strip("-"): item for (k, name), item in built.items() if k == kind
    }


def template_of(item: dict[str, Any]) -> dict[str, Any]:
    spec = item["spec"]
    template: dict[str, Any] = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]
    return template


def pod_of(item: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = template_of(item)["spec"]
    return pod


def settings(built: Built) -> dict[str, str]:
    (found,) = of_kind(built, "ConfigMap").values()
    data: dict[str, str] = found["data"]
    return data


def arguments_of(built: Built, item: dict[str, Any]) -> list[str]:
    """Return a container's arguments, with its variables filled in as Kubernetes does."""
    (container,) = pod_of(item)["containers"]
    assert [source["configMapRef"]["name"] for source in container["envFrom"]] == [
        n for k, n in built if k == "ConfigMap"
    ]
    return [re.sub(r"\$\((\w+)\)", lambda name: settings(built)[name[1]], word) for word in container["args"]]


def test_kubectl_makes_the_same(built: Built, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl") or tool("kubectl")
    for source in (KUBERNETES, OVERLAY):
        shutil.copytree(source, tmp_path / source.name)
        for name in (source / ".gitignore").read_text(encoding="utf-8").split():
            (tmp_path / source.name / name).touch()
    done = subprocess.run([kubectl, "kustomize", tmp_path / OVERLAY.name], capture_output=True, text=True, check=False)
    if "patchesStrategicMerge" in done.stderr:
        pytest.skip("this kubectl does not know patches within a kustomization, which 1.22 does")
    assert done.returncode == 0, done.stderr
    (image,) = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    made: Built = {}
    for item in yaml.safe_load_all(
        re.sub(r"(?m)^( +(?:- )?\w*[nN]ame: \S+)-[bcdfghkmt2456789]{10}$", r"\1", done.stdout)
    ):
        made[item["kind"], item["metadata"]["name"]] = item
    expected = json.loads(json.dumps(list(built.items())))
    for _, item in expected:
        if item["kind"] in ("Deployment", "CronJob"):
            (container,) = pod_of(item)["containers"]
            container["image"] = f"{image['newName']}:{image['newTag']}"
    assert made == {(kind, name): item for (kind, name), item in expected}


def test_what_is_built_is_valid(built: Built) -> None:
    assert set(of_kind(built, "CronJob")) == set(UPKEEP)
    assert set(of_kind(built, "StatefulSet")) == {"postgres"}
    for release in ("1.30", "1.33", "1.37"):
        for item in built.values():
            kubernetes_validate.validate(item, release, strict=True)


def test_the_pods_search_and_the_jobs_are_commands(built: Built) -> None:
    (deployment,) = of_kind(built, "Deployment").values()
    found = options([*entrypoint(), *arguments_of(built, deployment)])
    host = next(name for kind, name in built if kind == "StatefulSet")
    assert found.catalogs == [f"shop=postgresql://{host}/catalog"]
    assert ("Service", host) in built
    parser, _ = make_parser()
    jobs = of_kind(built, "CronJob")
    for job in jobs.values():
        (container,) = pod_of(job)["containers"]
        assert container["command"] == ["text-image-similarity", "catalog"]
        asked = parser.parse_args(["catalog", *arguments_of(built, job)])
        assert found.catalogs == [f"shop={asked.catalog}"]
    assert {name: job["spec"].get("suspend", False) for name, job in jobs.items()} == {
        name: name == "reindex" for name in UPKEEP
    }
    assert COMMANDS[-1][3] == "--from=cronjob/text-image-similarity-reindex"
    images = {pod_of(item)["containers"][0]["image"] for item in (deployment, *jobs.values())}
    assert len(images) == 1


def test_pods_have_the_secret_of_the_database_and_rights_to_nothing(
    built: Built,
) -> None:
    secrets = {name for kind, name in built if kind == "Secret"}
    folder, _, file = settings(built)["PGSERVICEFILE"].rpartition("/")
    items = [*of_kind(built, "Deployment").values(), *of_kind(built, "CronJob").values()]
    for item in items:
        pod = pod_of(item)
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mounts[folder]]
        assert list(built["Secret", volume["secret"]["secretName"]]["data"]) == [file]
        assert volume["secret"]["secretName"] in secrets
    for item in (*items, *of_kind(built, "StatefulSet").values()):
        pod = pod_of(item)
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claims = {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
        assert mounted == {volume["name"] for volume in pod["volumes"]} | claims


def test_only_the_service_and_its_upkeep_reach_the_database(built: Built) -> None:
    policies = of_kind(built, "NetworkPolicy")
    (server,) = of_kind(built, "StatefulSet").values()
    (service,) = of_kind(built, "Deployment").values()
    name = "app.kubernetes.io/name"
    upkeep = {template_of(job)["metadata"]["labels"][name] for job in of_kind(built, "CronJob").values()}
    both = upkeep | {template_of(service)["metadata"]["labels"][name]}
    assert (len(upkeep), len(both)) == (1, 2)  # so the Service sends no request to a job
    selected = policies[""]["spec"]["podSelector"]["matchExpressions"]
    assert [(each["operator"], set(each["values"])) for each in selected] == [("In", both)]
    assert policies["postgres"]["spec"]["podSelector"]["matchLabels"] == template_of(server)["metadata"]["labels"]
    ((rule,),) = [policies["postgres"]["spec"]["ingress"]]
    assert [each["podSelector"]["matchExpressions"] for each in rule["from"]] == [selected]
    assert "egress" not in policies["postgres"]["spec"]
    dialled = [to for rule in policies[""]["spec"]["egress"] for to in rule["to"] if set(to) == {"podSelector"}]
    assert dialled == [{"podSelector": {"matchLabels": template_of(server)["metadata"]["labels"]}}]
    assert of_kind(built, "Service")[""]["spec"]["selector"] == {"app.kubernetes.io/name": "text-image-similarity"}


# What the page says, on a PostgreSQL


def catalog_commands() -> Iterator[list[str]]:
    """Yield the page's commands of the container `catalog`, without what starts it."""
    for words in COMMANDS:
        if words[:4] == ["docker", "compose", "run", "--rm"]:
            assert words[4] == "catalog"
            assert SERVICES["catalog"]["entrypoint"] == ["text-image-similarity", "catalog"]
            yield ["catalog", *words[5:]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address without a user, who is in the file that libpq is told of as in the containers."""
    with postgres_server():
        user, at, rest = schema_at(tmp_path).partition("@")
        assert (user, at) == ("postgresql://postgres:", "@")
        file = tmp_path / "pg_service.conf"
        (line,) = [line for line in DEPLOY.splitlines() if line.startswith("printf '[catalog]")]
        printed = subprocess.run(["bash", "-c", line.partition(" > ")[0]], capture_output=True, text=True, check=True)
        assert "user=catalog\n" in printed.stdout
        file.write_text(printed.stdout.replace("user=catalog", "user=postgres"), encoding="utf-8")
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        monkeypatch.setenv("PGSERVICE", SERVICES["scorer-1"]["environment"]["PGSERVICE"])
        monkeypatch.setenv("PGUSER", "nobody-knows")  # which the file overrules
        yield f"postgresql://{rest}"


def run(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0, words


@pytest.mark.slow
def test_the_commands_work_on_a_postgresql(place: str, built: Built, tmp_path: Path) -> None:
    given = {
        PLACE: place,
        "/products/products.csv": str(ROOT / "sample_catalog" / "products.csv"),
        "/models/fast": "mini",
        "fast=/models/fast": "mini",
    }
    commands = list(catalog_commands())
    assert [words[1] for words in commands] == ["create", "add"]
    for command in commands:
        run([given.get(word, word) for word in [*command, "--quiet"]])
    keys = tmp_path / "api-keys.txt"
    (line,) = [line for line in DEPLOY.splitlines() if line.startswith("echo '{")]
    made = subprocess.run(["bash", "-c", line.partition(" > ")[0]], capture_output=True, text=True, check=True)
    keys.write_text(made.stdout, encoding="utf-8")
    key = json.loads(made.stdout)["key"]
    given |= {f"shop={PLACE}": f"shop={place}", "/run/secrets/api-keys": str(keys)}
    arguments = [given.get(word, word) for word in SERVICES["scorer-1"]["command"]]
    with process(*arguments, "--drain-delay", "0", environment={"OMP_NUM_THREADS": "1"}) as service:
        asked, headers = {"text": "a red shoe", "top_k": 3}, {"X-API-Key": key}
        assert httpx.post(f"{service.url}/match-text", json=asked, timeout=HANG_S).status_code == 401
        answer = httpx.post(f"{service.url}/match-text", json=asked, headers=headers, timeout=HANG_S)
        assert answer.json()["total"] == 36
        service.end()
    jobs = of_kind(built, "CronJob")
    host = settings(built)["CATALOG_PLACE"]
    for name in ("optimize", "prune"):
        run(["catalog", *(place if word == host else word for word in arguments_of(built, jobs[name]))])
    run(["catalog", "log", place, "--export", str(tmp_path / "log.jsonl")])
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(entry["status"], entry["tenant"]) for entry in entries] == [(200, "shop")]
