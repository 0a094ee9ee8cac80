"""Renders the chart with Helm itself and validates what it renders, without a cluster.

Helm is the Go library in a wheel, or where no wheel exists a `helm` on the path. It runs in a process of its
own: a Go runtime takes signal handlers and threads that belong to the caller.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "entitlement-sidecar"
EXAMPLE = ROOT / "examples" / "chart"

KUBERNETES = ("1.32", "1.37")
"""Oldest and newest Kubernetes whose schemas every manifest has to satisfy."""

SECRETS = {"planstore": {"database": {"secret": "database"}, "credentials": {"secret": "credentials"}}}
"""The least that an installation has to say."""

Manifest = dict[str, Any]


class ChartError(Exception):
    """Helm refused the values, or a manifest is not valid; the message says which and why."""


def render(chart: Path, values: dict[str, Any], release: str = "entitlements") -> list[Manifest]:
    """The manifests of a release.

    Raises:
        ChartError: With what Helm said.
    """
    script = [sys.executable, __file__, "--render", str(chart), release]
    done = subprocess.run(script, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartError(done.stderr.strip())
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def render_example(values: dict[str, Any], folder: Path) -> list[Manifest]:
    """The manifests of the example application, whose chart includes the sidecar; `folder` is scratch."""
    chart = Path(shutil.copytree(EXAMPLE, folder / "chart"))
    shutil.copytree(CHART, chart / "charts" / CHART.name)
    return render(chart, values, "shop")


def validate(manifest: Manifest) -> None:
    """Holds a manifest against the strict schemas of each Kubernetes version.

    Raises:
        ChartError: Names the manifest, the place in it and what is wrong.
    """
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            raise ChartError(f"{name}, Kubernetes {version}, {place}: {error.message}") from error


def render_here(chart: str, release: str, values: dict[str, Any]) -> str:
    """What `helm template` prints, from the library or the program."""
    try:
        import helm_python  # noqa: PLC0415 - loads 80 MB of Go, and exists for some platforms only
    except ModuleNotFoundError:
        return _render_by_program(chart, release, values)
    with helm_python.Chart.load(chart) as loaded:
        manifests = loaded.render(values, name=release, namespace="platform")
    return "\n---\n".join(text for path, text in sorted(manifests.items()) if path.endswith(".yaml"))


def _render_by_program(chart: str, release: str, values: dict[str, Any]) -> str:
    program = shutil.which("helm")
    if program is None:
        raise ChartError("no wheel of helm-python-sdk for this platform: put `helm` on the path")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        command = [program, "template", release, chart, "--namespace", "platform", "--values", file.name]
        command += ["--kube-version", KUBERNETES[0]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartError(done.stderr.strip())
    return done.stdout


def _render_for_caller(chart: str, release: str) -> int:
    try:
        print(render_here(chart, release, json.load(sys.stdin)))
    except Exception as error:  # noqa: BLE001 - crosses a process boundary as text
        print(error, file=sys.stderr)
        return 1
    return 0


def _everything() -> Iterator[Manifest]:
    yield from render(CHART, SECRETS)
    with tempfile.TemporaryDirectory() as folder:
        yield from render_example({}, Path(folder))


def main() -> int:
    """Validates the chart with its least values and the example that includes it."""
    if sys.argv[1:2] == ["--render"]:
        return _render_for_caller(*sys.argv[2:4])
    try:
        for manifest in _everything():
            validate(manifest)
    except ChartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
