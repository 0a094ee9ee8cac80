"""What the code declares is documented, and what the documents point at exists."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import reference_metrics
import reference_settings
from entitlement_sidecar.cli.main import cli

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "src", "examples", "benchmarks", "conformance", "helm")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def test_every_metric_is_documented() -> None:
    """An operator finds each name that `/metrics` shows on the page, with its meaning."""
    page = (ROOT / "docs/reference/metrics.md").read_text("utf-8")
    names = [reference_metrics.exposed_name(metric) for metric in reference_metrics.declared()]
    assert names
    assert [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.parametrize("command", reference_settings.COMMANDS)
def test_every_setting_is_documented(command: str) -> None:
    """Each setting says what it means, and is on the page."""
    page = (ROOT / "docs/reference/configuration.md").read_text("utf-8")
    settings = reference_settings.settings(command)
    assert [item.flag for item in settings if not item.meaning] == []
    assert [item.flag for item in settings if f"`{item.flag}`" not in page] == []


def commands(group: click.Group, *path: str) -> Iterator[str]:
    """Every command below a group, by its full name."""
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from commands(found, *path, name)
        else:
            yield " ".join((*path, name))


def test_every_command_is_documented() -> None:
    """The page names each in its table, as `group one|other ARGUMENTS`."""
    page = (ROOT / "docs/reference/cli.md").read_text("utf-8").replace("\\|", "/")
    told = set[str]()
    for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE):
        for words in (one.split() for one in re.findall(r"`([^`]+)`", cell)):
            told.add(words[0])
            told |= {f"{words[0]} {name}" for name in "".join(words[1:2]).split("/")}
            told |= {" ".join((*words[:2], name)) for name in "".join(words[2:3]).split("/")}
    assert [name for name in commands(cli) if name not in told] == []


def links() -> Iterator[tuple[Path, str]]:
    """Every relative link of every document."""
    pages = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/**/*.md"))]
    for page in pages:
        for target in LINK.findall(page.read_text("utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                yield page, target


def test_links_between_documents_lead_somewhere() -> None:
    """A relative link names a file or folder of the repository."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page, target in links()
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_chart_installs_this_version() -> None:
    """The chart's appVersion is the tag of the image that this source builds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    chart = yaml.safe_load((ROOT / "helm/entitlement-sidecar/Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == project["version"]


def test_the_changelog_names_this_version() -> None:
    """A release says what is in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
