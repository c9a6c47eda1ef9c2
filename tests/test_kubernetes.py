"""The objects of deploy/kubernetes: valid, consistent with each other, and with what the program does."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from app.cli.main import priohook
from app.cli.serve import LAST
from app.database.libpq import target
from app.server.beside import ENDS_WITHIN
from app.server.server import ends_within
from app.settings import sources
from app.settings.digest import digest_of
from app.settings.model import Settings
from app.settings.values import host_and_port
from tests.conftest import SECRET, TOKEN_KEY
from tests.pages import PROJECT, page
from tests.test_application import application

FOLDER = PROJECT / "deploy" / "kubernetes"
DOCS = page("deploying").partition("## Kubernetes\n")[2].partition("\n## ")[0]
API_VERSIONS = ["1.32", "1.37"]
"""Of Kubernetes: the oldest and the newest that the objects are checked with."""

KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
EXAMPLE = yaml.safe_load((FOLDER / "secret.example.yaml").read_text())
PORT_OF_METRICS = "prometheus.io/port"
GIB = 1024**3


def built() -> list[dict[str, Any]]:
    """All objects, as `kubectl kustomize` gives them; where it is not installed, as the files have them."""
    kubectl = shutil.which("kubectl")
    if kubectl:
        text = subprocess.check_output([kubectl, "kustomize", FOLDER], text=True)
    else:
        text = "\n---\n".join((FOLDER / name).read_text() for name in KUSTOMIZATION["resources"])
    return [each for each in yaml.safe_load_all(text) if each["kind"] != "ConfigMap"]


OBJECTS = {f"{each['kind']} {each['metadata']['name']}": each for each in built()}
PODS = {
    name.partition(" ")[2]: each["spec"]["template"]
    for name, each in OBJECTS.items()
    if "template" in each.get("spec", {})
}
RECEIVER, WORKER = PODS["receiver"]["spec"], PODS["worker"]["spec"]


def container(pod: str) -> dict[str, Any]:
    (only,) = PODS[pod]["spec"]["containers"]
    return dict(only)


def labels(pod: str) -> dict[str, str]:
    return dict(PODS[pod]["metadata"]["labels"])


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Settings]:
    """`settings_of("worker")` are those that the pod reads, with the example of the secrets filled in."""
    filled = {"token_keys": TOKEN_KEY, "secret": SECRET}

    def load(pod: str) -> Settings:
        (secrets,) = [each["secret"] for each in PODS[pod]["spec"]["volumes"] if each["name"] == "secrets"]
        keys = [each["key"] for each in secrets["items"]] if "items" in secrets else EXAMPLE["stringData"]
        for key in keys:
            value = EXAMPLE["stringData"][key] or filled[key.removeprefix("priohook_").rpartition("__")[2]]
            (tmp_path / key).write_text(value)
        monkeypatch.setattr(sources, "SECRETS_FOLDER", tmp_path)
        for variable in container(pod).get("env", []):
            monkeypatch.setenv(variable["name"], str(FOLDER / Path(variable["value"]).name))
        return Settings.load()

    return load


@pytest.fixture
def settings(settings_of: Callable[[str], Settings]) -> Settings:
    return settings_of("receiver")


@pytest.mark.parametrize("each", [*OBJECTS.values(), EXAMPLE], ids=[*OBJECTS, "Secret"])
@pytest.mark.parametrize("version", API_VERSIONS)
def test_the_api_knows_each_field(each, version):
    kubernetes_validate.validate(each, version, strict=True)


def test_all_files_are_used():
    used = {*KUSTOMIZATION["resources"], *KUSTOMIZATION["configMapGenerator"][0]["files"]}
    assert used | {"kustomization.yaml", "secret.example.yaml"} == {path.name for path in FOLDER.iterdir()}
    assert (
        KUSTOMIZATION["namespace"]
        == EXAMPLE["metadata"]["namespace"]
        == OBJECTS["Namespace priohook"]["metadata"]["name"]
    )


def test_the_image_is_of_this_version():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert [(each["name"], each["newTag"]) for each in KUSTOMIZATION["images"]] == [("priohook", version)]


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_has_no_rights_that_it_does_not_need(pod):
    assert PODS[pod]["spec"]["automountServiceAccountToken"] is False
    of_pod = PODS[pod]["spec"]["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {of_pod['runAsUser']}:{of_pod['runAsGroup']}" in (PROJECT / "Dockerfile").read_text()
    assert container(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container(pod)["resources"]["limits"]


@pytest.mark.parametrize("pod", PODS)
def test_the_command_line_knows_what_a_pod_runs(pod):
    name, *arguments = container(pod)["args"]
    command = priohook.get_command(click.Context(priohook), name)
    assert command is not None
    command.make_context(name, arguments)


def test_each_pod_can_use_the_settings_that_it_gets(settings_of):
    receiver, worker = settings_of("receiver"), settings_of("worker")
    assert digest_of(receiver) == digest_of(worker)  # else the status says that they differ
    assert set(receiver.clients) == {"prioticket", "admin"}


def test_the_job_that_migrates_gets_no_secret_but_the_database(settings_of):
    assert settings_of("priohook-migrate").model_fields_set == {"database_url"}


@pytest.mark.parametrize("pod", PODS)
def test_each_file_that_the_url_of_the_database_names_is_among_the_secrets_of_the_pod(pod, settings_of, tmp_path):
    files = target(settings_of(pod).database_url).files
    assert {Path(each).parent for each in files} == {Path("/run/secrets")}
    assert {Path(each).name for each in files} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("pod", PODS)
def test_each_volume_of_a_pod_is_there(pod):
    claims = OBJECTS["StatefulSet receiver"]["spec"]["volumeClaimTemplates"] if pod == "receiver" else []
    volumes = {each["name"] for each in PODS[pod]["spec"]["volumes"]} | {each["metadata"]["name"] for each in claims}
    mounts = {each["mountPath"]: each["name"] for each in container(pod)["volumeMounts"]}
    assert set(mounts.values()) == volumes
    assert mounts["/run/secrets"] == "secrets"
    for variable in container(pod).get("env", []):
        assert variable["name"] == sources.CONFIG_VARIABLE
        assert str(Path(variable["value"]).parent) in mounts
    (secrets,) = [each["secret"] for each in PODS[pod]["spec"]["volumes"] if each["name"] == "secrets"]
    assert secrets["secretName"] == EXAMPLE["metadata"]["name"]


def test_acknowledged_events_are_on_a_disk_that_outlives_the_pod(settings):
    stateful = OBJECTS["StatefulSet receiver"]["spec"]
    (claim,) = stateful["volumeClaimTemplates"]
    mounts = {each["mountPath"]: each["name"] for each in container("receiver")["volumeMounts"]}
    assert mounts[str(settings.spool)] == claim["metadata"]["name"]
    assert set(stateful["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    gib = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert gib * GIB >= 2 * settings.spool_max_bytes


def test_a_pod_is_killed_only_after_it_has_had_time_to_end(settings):
    assert RECEIVER["terminationGracePeriodSeconds"] > (
        settings.shutdown_delay.total_seconds() + ends_within(settings) + LAST
    )
    assert WORKER["terminationGracePeriodSeconds"] > 2 * ENDS_WITHIN


def test_a_balancer_notices_that_a_receiver_ends_before_it_stops_to_listen(settings):
    probe = container("receiver")["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings.shutdown_delay.total_seconds()


def test_the_probes_ask_what_the_receiver_answers():
    paths = {getattr(route, "path", None) for route in application().routes}
    probes = {name: probe["httpGet"] for name, probe in container("receiver").items() if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {probe["path"] for probe in probes.values()} <= paths
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_a_worker_is_asked_whether_it_works():
    name, *arguments = container("worker")["readinessProbe"]["exec"]["command"]
    assert name == "priohook"
    priohook.make_context(name, arguments, resilient_parsing=True)
    assert arguments == ["status", "--worker"]


@pytest.mark.parametrize("pod", ["receiver", "worker"])
def test_metrics_are_where_prometheus_asks(pod, settings):
    ports = {each["name"]: each["containerPort"] for each in container(pod)["ports"]}
    assert host_and_port(settings.metrics) == ("0.0.0.0", ports["metrics"])  # noqa: S104
    assert PODS[pod]["metadata"]["annotations"][PORT_OF_METRICS] == str(ports["metrics"])


def test_the_receiver_listens_at_its_port():
    command = priohook.get_command(click.Context(priohook), "serve")
    assert command is not None
    port = command.make_context("serve", container("receiver")["args"][1:]).params["port"]
    assert {"name": "http", "containerPort": port} in container("receiver")["ports"]


@pytest.mark.parametrize(
    ("name", "pods"),
    [
        ("Service receiver", {"receiver"}),
        ("StatefulSet receiver", {"receiver"}),
        ("PodDisruptionBudget receiver", {"receiver"}),
        ("Deployment worker", {"worker"}),
        ("PodDisruptionBudget worker", {"worker"}),
        ("NetworkPolicy webhooks", {"receiver"}),
        ("NetworkPolicy metrics", set(PODS)),
        ("NetworkPolicy outwards", set(PODS)),
        ("NetworkPolicy nothing-else", set(PODS)),
    ],
)
def test_each_selector_finds_the_pods_that_it_is_for(name, pods):
    spec = OBJECTS[name]["spec"]
    selector = spec["podSelector"] if name.startswith("NetworkPolicy") else spec["selector"]
    wanted = selector if name.startswith("Service") else selector.get("matchLabels", {})
    assert {pod for pod in PODS if wanted.items() <= labels(pod).items()} == pods


def test_a_policy_opens_only_ports_that_pods_have():
    opened = {
        port["port"]
        for name, each in OBJECTS.items()
        if name.startswith("NetworkPolicy")
        for rule in each["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    assert opened == {each["name"] for each in container("receiver")["ports"]}


def test_receivers_and_workers_have_the_same_settings_and_one_of_each_may_be_away():
    config = [next(each for each in pod["volumes"] if each["name"] == "config") for pod in (RECEIVER, WORKER)]
    assert config[0] == config[1]
    for name in ("receiver", "worker"):
        assert OBJECTS[f"PodDisruptionBudget {name}"]["spec"]["maxUnavailable"] == 1
        assert OBJECTS[f"PodDisruptionBudget {name}"]["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    replicas = (OBJECTS["StatefulSet receiver"]["spec"]["replicas"], OBJECTS["Deployment worker"]["spec"]["replicas"])
    assert min(replicas) > 1


def test_the_page_names_what_is_there():
    assert f"Kubernetes {' and '.join(API_VERSIONS)}," in DOCS
    assert set(re.findall(r"deploy/kubernetes/([\w.-]+)", DOCS)) <= {path.name for path in FOLDER.iterdir()}
    assert set(re.findall(r"component=(\w+)", DOCS)) <= {labels(pod)["app.kubernetes.io/component"] for pod in PODS}
    assert set(re.findall(r"job/([\w-]+)", DOCS)) == {"priohook-migrate"}
