"""The chart, rendered by Helm itself and held against the schemas of Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import chart

Values = dict[str, Any]


def deployment(manifests: list[chart.Manifest]) -> Values:
    """The pod of the only Deployment."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    pod: Values = found["spec"]["template"]["spec"]
    return pod


def variables(container: Values) -> dict[str, Values]:
    """A container's environment by name."""
    return {variable["name"]: variable for variable in container["env"]}


def with_store(**more: object) -> Values:
    """The least values, and more of the plan store's."""
    return {"planstore": {**chart.SECRETS["planstore"], **more}}


@pytest.mark.parametrize(
    "values",
    [
        with_store(),
        with_store(replicas=1, redis={"secret": "redis", "passwordKey": "password"}),
        with_store(
            podAnnotations={"a": "b"}, nodeSelector={"disk": "ssd"}, tolerations=[{"operator": "Exists"}]
        ),
        {**with_store(), "imagePullSecrets": [{"name": "pull"}], "image": {"repository": "own", "tag": "1"}},
    ],
    ids=["least", "redis", "placement", "image"],
)
def test_the_plan_store_renders(values: Values) -> None:
    """Given legal values, then every manifest is valid on the oldest and the newest Kubernetes."""
    manifests = chart.render(chart.CHART, values)
    assert {manifest["kind"] for manifest in manifests} == {"Deployment", "Service", "ServiceAccount"}
    for manifest in manifests:
        chart.validate(manifest)


@pytest.mark.parametrize(
    "sidecar",
    [
        {},
        {"trustedKeys": {"configMap": "keys"}},
        {"callers": {"configMap": "callers"}},
        {"redis": {"secret": ""}, "front": "aio"},
        {"redis": {"secret": "redis", "passwordKey": "password"}},
        {
            "state": {
                "ephemeral": {
                    "volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {}}}
                }
            }
        },
    ],
    ids=["as shipped", "pinned keys", "callers", "no redis", "redis with a password", "own volume"],
)
def test_an_application_that_includes_the_sidecar_renders(sidecar: Values, tmp_path: Path) -> None:
    """Given a chart that depends on this one, then its pod with the sidecar is valid."""
    manifests = chart.render_example({"entitlement-sidecar": {"sidecar": sidecar}}, tmp_path)
    assert [manifest["kind"] for manifest in manifests] == ["Deployment"]
    for manifest in manifests:
        chart.validate(manifest)


def test_the_sidecar_starts_first_and_ends_last(tmp_path: Path) -> None:
    """A native sidecar is an init container that is always restarted and gates the application."""
    (sidecar,) = deployment(chart.render_example({}, tmp_path))["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_the_sidecar_answers_its_own_pod_only(tmp_path: Path) -> None:
    """Checks carry no credentials, so gRPC stays on loopback; probes come from outside."""
    (sidecar,) = deployment(chart.render_example({}, tmp_path))["initContainers"]
    assert variables(sidecar)["ENTITLEMENTS_LISTEN"]["value"].startswith("127.0.0.1:")
    assert "ENTITLEMENTS_ALLOW_REMOTE" not in variables(sidecar)


def test_the_sidecar_finds_the_plan_store_of_its_release() -> None:
    """Given no address, when the plan store is part of the release, then its service is the address."""
    service = next(m for m in chart.render(chart.CHART, with_store()) if m["kind"] == "Service")
    assert service["metadata"]["name"] == "entitlements-entitlement-sidecar-planstore"
    assert [port["port"] for port in service["spec"]["ports"]] == [7410, 7411]


def test_every_container_is_confined(tmp_path: Path) -> None:
    """No root, no writable image, no capabilities, bounded memory: the restricted Pod Security Standard."""
    pods = [
        deployment(chart.render(chart.CHART, with_store())),
        deployment(chart.render_example({}, tmp_path)),
    ]
    containers = [
        c for pod in pods for c in [*pod["initContainers"], *pod["containers"]] if c["name"] != "app"
    ]
    assert len(containers) == 3
    for container in containers:
        security = container["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == 65532
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "memory" in container["resources"]["limits"]


def test_snapshots_fit_into_the_memory_of_the_sidecar(tmp_path: Path) -> None:
    """What is held leaves room for the process, so that many tenants do not end it."""
    (sidecar,) = deployment(chart.render_example({}, tmp_path))["initContainers"]
    snapshots = int(variables(sidecar)["ENTITLEMENTS_MAX_SNAPSHOT_BYTES"]["value"])
    limit = sidecar["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert snapshots + (160 << 20) <= int(limit.removesuffix("Mi")) << 20


def test_passwords_are_never_arguments(tmp_path: Path) -> None:
    """Arguments are visible to every user of a node: URLs with passwords come from Secrets."""
    store = deployment(chart.render(chart.CHART, with_store(redis={"secret": "redis"})))
    app = deployment(chart.render_example({}, tmp_path))
    for container in [*store["initContainers"], *store["containers"], *app["initContainers"]]:
        assert set(container["args"]) <= {"sidecar", "planstore", "migrate"}
        for name in {"ENTITLEMENTS_DATABASE", "ENTITLEMENTS_REDIS"} & variables(container).keys():
            assert "secretKeyRef" in variables(container)[name]["valueFrom"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "planstore.database.secret"),
        ({"planstore": {"database": {"secret": "d"}}}, "planstore.credentials.secret"),
        (with_store(replicas="two"), "/planstore/replicas"),
        (with_store(replicas=0), "/planstore/replicas"),
        ({**with_store(), "sidecars": {}}, "sidecars"),
        ({**with_store(), "sidecar": {"planstore": "no port"}}, "/sidecar/planstore"),
        ({**with_store(), "sidecar": {"front": "slow"}}, "/sidecar/front"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Values, complaint: str) -> None:
    """Given a missing, unknown or malformed value, then Helm refuses and names it."""
    with pytest.raises(chart.ChartError, match=complaint):
        chart.render(chart.CHART, values)


def test_a_sidecar_without_a_plan_store_is_refused(tmp_path: Path) -> None:
    """Given neither an address nor a plan store in the release, then the message says what to give."""
    values = {"entitlement-sidecar": {"sidecar": {"planstore": ""}}}
    with pytest.raises(chart.ChartError, match=r"sidecar\.planstore: give HOST:PORT"):
        chart.render_example(values, tmp_path)
