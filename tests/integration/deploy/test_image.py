"""The steps of the Dockerfile, run as commands: there need be no container engine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from integration.deploy.dockerfile_steps import Builder, Step, stages

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def dockerfile() -> list[list[Step]]:
    """The stages of the Dockerfile."""
    return stages((ROOT / "Dockerfile").read_text("utf-8"))


@pytest.fixture(scope="module")
def built(dockerfile: list[list[Step]], tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The builder stage, after its last step."""
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    builder = Builder(ROOT, tmp_path_factory.mktemp("image"), str(base))
    builder.run(dockerfile[0])
    return builder


@pytest.mark.timeout(600)
def test_the_image_holds_a_command_that_runs(built: Builder, tmp_path: Path) -> None:
    """Given the builder's last step, when `entitlements` runs from what is copied on, then it works."""
    program = built.below("/opt/entitlements/bin/entitlements")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [str(program), "--help"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "sidecar" in done.stdout
    assert "planstore" in done.stdout


@pytest.mark.timeout(600)
def test_the_image_can_migrate(built: Builder, tmp_path: Path) -> None:
    """Migrations travel inside the package: an image has no source tree."""
    program = built.below("/opt/entitlements/bin/entitlements")
    database = tmp_path / "store.db"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ENTITLEMENTS_DATABASE": f"sqlite:///{database}",
    }
    command = [str(program), "planstore", "migrate"]
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    assert database.stat().st_size > 0


@pytest.mark.timeout(600)
def test_the_image_holds_no_installer(built: Builder) -> None:
    """What is not there cannot be used by an intruder."""
    programs = {path.name for path in built.below("/opt/entitlements/bin").iterdir()}
    assert {"pip", "pip3", "hatchling", "gcc", "uv"} & programs == set()


def test_the_image_runs_as_a_numbered_user(dockerfile: list[list[Step]]) -> None:
    """Kubernetes can only verify `runAsNonRoot` for a number."""
    users = [step.value for step in dockerfile[-1] if step.name == "USER"]
    assert users == ["65532:65532"]


def test_the_last_stage_runs_nothing(dockerfile: list[list[Step]]) -> None:
    """It only copies: no step of it needs root, a shell or a package manager."""
    assert [step for step in dockerfile[-1] if step.name == "RUN"] == []


def test_the_image_is_the_sidecar_unless_told_otherwise(dockerfile: list[list[Step]]) -> None:
    """`docker run IMAGE` is a sidecar, `docker run IMAGE planstore` a plan store."""
    said = {step.name: step.value for step in dockerfile[-1]}
    assert said["ENTRYPOINT"] == '["entitlements"]'
    assert said["CMD"] == '["sidecar"]'


def test_everything_that_is_copied_is_in_the_build_context(dockerfile: list[list[Step]]) -> None:
    """Given that .dockerignore excludes everything, each COPY has its exception there."""
    allowed = {line.strip("!/") for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()}
    copied = {
        source.split("/")[0]
        for step in dockerfile[0]
        if step.name == "COPY"
        for source in shlex.split(step.value)[:-1]
    }
    assert copied <= allowed
