import re
from ipaddress import ip_address, ip_network
from typing import Any

import click
import pytest
import yaml
from compose_spec import PyOptions

from app.cli.main import priohook
from app.settings.clients import Scope
from app.settings.model import Settings
from app.settings.origins import unknown_variables
from tests.pages import PROJECT, page
from tests.pages import README as README_PAGE

TEXT = (PROJECT / "docker-compose.yml").read_text()
COMPOSE = PyOptions(apply_merge=True).from_yaml(TEXT)  # refuses names and values that compose does not know
SPECIFICATION: dict[str, Any] = COMPOSE.to_dict()
SERVICES: dict[str, dict[str, Any]] = SPECIFICATION["services"]
README = README_PAGE.read_text().partition("## With compose\n")[2].partition("\n## ")[0]
PAGE = page("deploying").partition("## Compose\n")[2].partition("\n## ")[0]
VARIABLE = re.compile(r"\$\{(\w+):\?([^}]+)\}")
COMMANDS = re.findall(r"docker compose ([^`\n]+)", README + PAGE)
OURS = [name for name, service in SERVICES.items() if service["image"] == "priohook"]


def environment(service: str) -> dict[str, str]:
    """A service's settings, with something for each variable of `.env`."""
    return {name: VARIABLE.sub("x" * 48, value) for name, value in SERVICES[service].get("environment", {}).items()}


def test_all_that_the_compose_file_refers_to_is_there():
    COMPOSE.validate()
    assert all((PROJECT / each["file"]).is_file() for each in SPECIFICATION["configs"].values())


@pytest.mark.parametrize(
    ("service", "waits_for", "condition"),
    [
        ("migrate", "db", "service_healthy"),
        ("receiver", "migrate", "service_completed_successfully"),
        ("worker", "migrate", "service_completed_successfully"),
        ("balancer", "receiver", "service_healthy"),
        ("simulator", "balancer", "service_healthy"),
    ],
)
def test_each_service_waits_for_what_it_needs(service, waits_for, condition):
    assert SERVICES[service]["depends_on"] == {waits_for: {"condition": condition}}
    assert condition != "service_healthy" or "healthcheck" in SERVICES[waits_for]


def test_only_simulated_ends_and_what_observes_must_be_asked_for():
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "simulator": ["demo"],
        "prioticket": ["circle"],
        "register": ["circle"],
        "prometheus": ["observe"],
        "grafana": ["observe"],
    }


def test_the_webhook_is_registered_when_both_ends_are_there(monkeypatch):
    assert SERVICES["register"]["depends_on"] == {
        "balancer": {"condition": "service_healthy"},
        "prioticket": {"condition": "service_healthy"},
    }
    accounts = []
    for service in ("receiver", "register", "prioticket"):
        with monkeypatch.context() as patched:
            for name, value in environment(service).items():
                patched.setenv(name, value)
            accounts.append(Settings.load().prioticket)
    assert accounts[0] is not None
    assert accounts == [accounts[0]] * 3
    assert accounts[0].base_url.startswith("http://prioticket:8099/")
    assert "0.0.0.0:8099" in SERVICES["prioticket"]["command"]
    assert set(SERVICES["prioticket"]["networks"]) & set(SERVICES["receiver"]["networks"])


@pytest.mark.parametrize("service", [*OURS, "balancer", "prometheus", "grafana"])
def test_a_service_that_needs_no_rights_has_none(service):
    hardened = SERVICES[service]
    assert hardened["read_only"] is True
    assert hardened["cap_drop"] == ["ALL"]
    assert hardened["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", SERVICES)
def test_memory_processes_and_logs_of_every_service_are_bounded(service):
    assert {"mem_limit", "pids_limit"} < SERVICES[service].keys()
    assert set(SERVICES[service]["logging"]["options"]) == {"max-size", "max-file"}


def test_receivers_and_workers_have_the_same_settings():
    assert environment("worker") == environment("receiver")
    assert "--no-worker" in SERVICES["receiver"]["command"]


def test_a_worker_is_asked_whether_it_works():
    assert SERVICES["worker"]["healthcheck"]["test"] == ["CMD", "priohook", "status", "--worker"]


def test_events_go_to_the_consumer(monkeypatch):
    for name, value in environment("worker").items():
        monkeypatch.setenv(name, value)
    assert Settings.load().destinations["consumer"].url == "http://consumer:8080/"
    (script,) = SERVICES["consumer"]["configs"]
    assert SERVICES["consumer"]["entrypoint"] == ["python", script["target"]]
    assert set(SERVICES["consumer"].get("networks", ["default"])) & set(SERVICES["worker"].get("networks", ["default"]))


def test_the_admin_may_do_everything_in_the_console_and_gets_tokens(monkeypatch):
    for name, value in environment("receiver").items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.clients["admin"].scopes == {Scope.READ, Scope.REPLAY, Scope.ERASE, Scope.CONSOLE}
    assert settings.token_keys


def test_only_the_balancer_and_what_observes_can_be_reached_and_only_from_this_machine():
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "balancer": ["127.0.0.1:8000:8080"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    for text in (PAGE, page("metrics")):
        assert "`http://127.0.0.1:9090`" in text
        assert "`http://127.0.0.1:3000`" in text
    assert "`http://127.0.0.1:8000`" in PAGE


@pytest.mark.parametrize("service", OURS)
def test_the_settings_read_every_variable_of_a_service(service, monkeypatch):
    variables = environment(service)
    assert unknown_variables(variables) == []
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert {name.removeprefix("PRIOHOOK_").lower().split("__")[0] for name in variables} == settings.model_fields_set


def test_the_receiver_knows_the_client_that_the_simulator_sends_as(monkeypatch):
    receiver, simulator = environment("receiver"), environment("simulator")
    assert simulator.items() < receiver.items()
    for name, value in simulator.items():
        monkeypatch.setenv(name, value)
    assert {name: client.scopes for name, client in Settings.load().clients.items()} == {"prioticket": {Scope.SEND}}


def test_receivers_believe_the_balancer_and_no_other_address():
    (subnet,) = SPECIFICATION["networks"]["front"]["ipam"]["config"]
    balancer = ip_address(SERVICES["balancer"]["networks"]["front"]["ipv4_address"])
    assert ip_network(environment("receiver")["PRIOHOOK_TRUSTED_PROXIES"]) == ip_network(balancer)
    assert balancer in ip_network(subnet["subnet"])
    assert balancer not in ip_network(subnet["ip_range"])


def test_the_balancer_lets_a_receiver_refuse_what_is_too_large():
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", (PROJECT / "nginx.conf").read_text())
    (limit,) = [each.le for each in Settings.model_fields["max_body_bytes"].metadata if hasattr(each, "le")]
    assert int(megabytes) * 1024 * 1024 > limit


def test_the_balancer_sends_only_webhooks_once_more_when_an_answer_was_lost():
    locations = (PROJECT / "nginx.conf").read_text().split("location ")[1:]
    twice = {each.split()[0]: "non_idempotent" in each.partition("}")[0] for each in locations}
    assert twice == {"/webhooks/": True, "/": False}


def test_each_variable_stands_in_the_example_and_says_what_to_do_where_it_is_missing():
    example = re.findall(r"^(\w+)=$", (PROJECT / ".env.example").read_text(), re.MULTILINE)
    used = VARIABLE.findall(TEXT)
    assert {name for name, _ in used} == set(example) == set(re.findall(r"\$\{(\w+)", TEXT))
    assert {sentence for _, sentence in used} == {"copy .env.example to .env and fill it in"}


def test_the_readme_fills_in_each_variable_with_a_secret_of_its_own():
    example = (PROJECT / ".env.example").read_text()
    (line,) = [line for line in README.splitlines() if "sed " in line]
    patterns = re.findall(r"s/(\^[^/]+)/&\$\(openssl rand -hex 24\)/", line)
    assert [len(re.findall(each, example, re.MULTILINE)) for each in patterns] == [1, 1, 1, 1]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_pages_name_services_and_profiles_that_exist(line):
    verb = next(word for word in line.split() if word in {"run", "exec", "up", "down", "logs"})
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert set(re.findall(r"--profile (\S+)", line)) <= profiles
    named = re.findall(r"--scale (\w+)=", line) or re.findall(rf"{verb} (?:--\S+ )*(\w+)", line)
    assert set(named) <= set(SERVICES)
    assert named or verb in {"up", "down"}


@pytest.mark.parametrize("service", ["migrate", "receiver", "worker", "simulator", "prioticket", "register"])
def test_the_command_line_knows_what_a_service_runs(service):
    name, *arguments = SERVICES[service]["command"]
    command = priohook.get_command(click.Context(priohook), name)
    assert command is not None
    command.make_context(name, arguments)


def test_prometheus_asks_where_the_receivers_answer_and_finds_the_rules():
    configured = yaml.safe_load((PROJECT / "deploy" / "prometheus" / "compose.yml").read_text())
    (job,) = configured["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert job["job_name"] == "priohook"
    assert found["names"] == ["receiver", "worker"]
    assert environment("receiver")["PRIOHOOK_METRICS"] == f"0.0.0.0:{found['port']}"
    places = {each["target"] for each in SERVICES["prometheus"]["configs"]}
    assert {f"/etc/prometheus/{name}" for name in ["prometheus.yml", *configured["rule_files"]]} == places


def test_grafana_is_given_the_dashboard_and_asks_prometheus():
    folder = PROJECT / "deploy" / "prometheus"
    (source,) = yaml.safe_load((folder / "grafana-datasource.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "grafana-dashboards.yml").read_text())["providers"]
    assert source["url"] == "http://prometheus:9090"
    places = {each["source"]: each["target"] for each in SERVICES["grafana"]["configs"]}
    assert places["dashboard"].startswith(provider["options"]["path"])


def test_the_image_is_built_from_all_that_the_package_needs():
    """The files that .dockerignore lets through, from which the package is built."""
    kept = re.findall(r"^!(.+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE)
    assert {"app", "migrations", "pyproject.toml", "requirements.txt"} <= set(kept)
    assert all((PROJECT / each).exists() for each in kept)
