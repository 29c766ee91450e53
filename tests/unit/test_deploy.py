"""The files in deploy/ and ray-cluster.yaml, as far as can be seen without what runs them.

Our own parts of them are held against the code: commands against the command line, configurations against
their reader, names of metrics and their labels against what is measured, paths against the routes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.metrics import FAMILIES
from cluster.cli import COMMANDS, build_parser
from cluster.config import parse

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAM = "/opt/sync-worker/bin/sync-worker"
SECRETS = dict.fromkeys(("PG_PASSWORD", "MYSQL_PASSWORD", "MONGO_PASSWORD", "REDIS_PASSWORD"), "a1" * 32)
SECRETS["AUDIT_KEY"] = "0f" * 32
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
LABELS = {f.name + ending: set(f.labels) for f in FAMILIES for ending in ENDINGS[f.kind]}
ADDED_LABELS = {"le"}


def read(*path: str) -> Any:
    return yaml.safe_load((DEPLOY / Path(*path)).read_text())


def accepted(words: list[str]) -> Any:
    """What the command line makes of the words; the test fails if it refuses them."""
    return build_parser([w for w in words if w in COMMANDS]).parse_args(words)


def kubernetes() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "sync-worker.yaml").read_text())
    return {document["kind"]: document for document in documents}


def container() -> Any:
    [found] = kubernetes()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found


def service_of_systemd() -> dict[str, str]:
    lines = (DEPLOY / "sync-worker.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def image() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, rest in (line.split(" ", 1) for line in lines)]


def test_the_configurations_are_read_without_a_complaint() -> None:
    text = (DEPLOY / "sync.yaml").read_text()
    of_pod = kubernetes()["ConfigMap"]["data"]["sync.yaml"]
    for source in (text, of_pod):
        config = parse(source, "sync.yaml", Path("/etc/sync-worker"), SECRETS)
        assert config.api is not None
        assert (config.api.host, config.api.port) == ("0.0.0.0", 3001)
        assert config.audit_path == Path("/var/lib/sync-worker/audit")


def test_every_command_is_one() -> None:
    compose = read("compose.yaml")["services"]["sync-worker"]["command"]
    unit = shlex.split(service_of_systemd()["ExecStart"])
    entry = [json.loads(rest) for word, rest in image() if word == "ENTRYPOINT"]
    default = [json.loads(rest) for word, rest in image() if word == "CMD"]
    assert unit[0] == PROGRAM
    assert entry == [[PROGRAM]]
    for words in (compose, container()["args"], unit[1:], *default):
        assert accepted(words).config == "/etc/sync-worker/sync.yaml"


def test_the_commands_in_the_comments_are_commands() -> None:
    files = [DEPLOY / "compose.yaml", DEPLOY / "kubernetes" / "sync-worker.yaml", ROOT / "ray-cluster.yaml"]
    text = "\n".join(file.read_text() for file in files)
    found = re.findall(r"sync-worker ((?:up|status|token|check) [^'#\n]*)", text)
    assert len(found) >= 3
    for words in found:
        accepted(shlex.split(words))


def test_the_probes_ask_what_is_answered_without_a_token() -> None:
    from api.access import OPEN

    found, ports = container(), {p["name"]: p["containerPort"] for p in container()["ports"]}
    probes = [found[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert [p["path"] for p in probes] == ["/health/live", "/health/live", "/health"]
    assert {p["path"] for p in probes} <= OPEN
    assert {ports[p["port"]] for p in probes} == {3001}
    [port] = kubernetes()["Service"]["spec"]["ports"]
    assert port["targetPort"] in ports
    check = read("compose.yaml")["services"]["sync-worker"]["healthcheck"]["test"][-1]
    assert "http://127.0.0.1:3001/health/live" in check
    compile(check, "healthcheck", "exec")


def test_what_is_mounted_is_declared() -> None:
    pod = kubernetes()["Deployment"]["spec"]["template"]
    volumes = {v["name"] for v in pod["spec"]["volumes"]}
    assert {m["name"] for m in container()["volumeMounts"]} == volumes
    assert kubernetes()["Deployment"]["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert kubernetes()["Service"]["spec"]["selector"] == pod["metadata"]["labels"]
    compose = read("compose.yaml")
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", ())) <= compose["services"].keys()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), f"{name}: {source}"


def test_secrets_come_from_the_environment_and_each_is_named() -> None:
    needed = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "sync.yaml").read_text()))
    given = read("compose.yaml")["services"]["sync-worker"]["environment"]
    example = {
        line.split("=")[0] for line in (DEPLOY / "example.env").read_text().splitlines() if "=" in line
    }
    assert needed == given.keys() == example
    of_pod = set(re.findall(r"\$\{(\w+)\}", kubernetes()["ConfigMap"]["data"]["sync.yaml"]))
    told = set(re.findall(r"--from-literal=(\w+)=", (DEPLOY / "kubernetes" / "sync-worker.yaml").read_text()))
    assert of_pod == told


def test_the_image_copies_what_there_is_and_all_packages_of_ours() -> None:
    copied = [rest.split()[:-1] for word, rest in image() if word == "COPY" and "--from" not in rest]
    sources = {source.removeprefix("./") for part in copied for source in part}
    assert all((ROOT / source).exists() for source in sources)
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"include = \[(.*)\]", project)
    assert packages is not None
    assert {p.strip(' "*') for p in packages[1].split(",")} <= sources
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert sources == kept
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in image()} <= known


def expressions() -> Iterator[tuple[str, str]]:
    """Every question to Prometheus, with its name."""
    for group in read("prometheus", "alerts.yaml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((DEPLOY / "grafana" / "sync-worker.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("name", "expression"), list(expressions()))
def test_only_what_is_measured_is_asked_for(name: str, expression: str) -> None:
    asked = re.findall(r"\b[a-z]+_[a-z_]+\b(?!\s*\()", re.sub(r"\$\w+|\{.*?\}", "", expression))
    metrics = [
        word for word in asked if word not in {label for labels in LABELS.values() for label in labels}
    ]
    assert metrics, expression
    labels: set[str] = set()
    for metric in metrics:
        assert metric in LABELS, f"{name}: {metric}"
        labels |= LABELS[metric] | ADDED_LABELS
    by = {label.strip() for part in re.findall(r"by \((.*?)\)", expression) for label in part.split(",")}
    chosen = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    assert by | chosen <= labels
    assert expression.count("(") == expression.count(")")


def test_alerts_name_labels_that_they_have_and_a_place_in_the_runbook() -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    for group in read("prometheus", "alerts.yaml")["groups"]:
        for rule in group["rules"]:
            page, _, anchor = rule["annotations"]["runbook"].partition("#")
            assert page == "docs/operating.md"
            assert anchor in anchors, anchor
            named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            kept = [set(part.split(", ")) for part in re.findall(r"by \((.*?)\)", rule["expr"])]
            [metric] = set(re.findall(r"\b(?:\w+_)+\w+\b(?=[\s{\[)]|$)", rule["expr"])) & LABELS.keys()
            assert named <= (kept[0] if kept else LABELS[metric]), rule["alert"]
            assert rule["labels"]["severity"] in ("critical", "warning")


def test_ray_takes_the_description_of_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.autoscaler._private import util

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    config = yaml.safe_load((ROOT / "ray-cluster.yaml").read_text())
    util.validate_config(util.prepare_config(config))
    with pytest.raises(Exception, match="provder"):
        util.validate_config(util.prepare_config({**config, "provder": {}}))
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert "~/sync-worker/.venv/bin/ray " in command
    assert "~/sync-worker" in config["file_mounts"]
