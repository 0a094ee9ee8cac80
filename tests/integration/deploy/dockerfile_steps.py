"""Reads a Dockerfile and runs the steps of a stage in a folder, where there is no container engine.

It knows the instructions that this repository uses: FROM, ENV, WORKDIR, COPY, RUN and, in the last stage,
those that only describe the image. Absolute paths of the image become paths below the folder.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """One instruction, with its continuation lines joined."""

    name: str
    value: str


def stages(text: str) -> list[list[Step]]:
    """The instructions of each stage, FROM first."""
    found: list[list[Step]] = []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        if name:
            found[-1].append(Step(name, value.strip()))
    return found


class Builder:
    """Runs the steps of one stage below `root`, as the user who runs the tests."""

    def __init__(self, context: Path, root: Path, python: str) -> None:
        self._context = context
        self._root = root
        self._folder = root
        programs = root / "programs"
        programs.mkdir(parents=True)
        # The image's `python` is the base interpreter, never that of a virtual environment.
        (programs / "python").symlink_to(python)
        # Only what an image would have: nothing of this environment's own settings for Python.
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))
        }
        self._environment = {**kept, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(self, steps: list[Step]) -> None:
        """Runs every step; raises CalledProcessError, with its output, for a RUN that fails."""
        for step in steps:
            getattr(self, f"_{step.name.lower()}")(step.value)

    def below(self, path: str) -> Path:
        """Where a path of the image is."""
        return self._root / path.lstrip("/")

    def _from(self, _: str) -> None:
        pass

    def _env(self, value: str) -> None:
        pairs = dict(pair.split("=", 1) for pair in shlex.split(value))
        # The host's cache of downloads may be used: an image would only not keep it.
        pairs.pop("PIP_NO_CACHE_DIR", None)
        self._environment.update(pairs)

    def _workdir(self, value: str) -> None:
        self._folder = self.below(value)
        self._folder.mkdir(parents=True)

    def _copy(self, value: str) -> None:
        *sources, target = shlex.split(value)
        for source in sources:
            origin, place = self._context / source, self._folder / target
            if origin.is_dir():
                shutil.copytree(origin, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place = place / origin.name if target.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(origin, place)

    def _run(self, value: str) -> None:
        for folder in ("/opt/entitlements", "/var/lib/entitlements"):
            value = value.replace(folder, str(self.below(folder)))
        subprocess.run(
            ["/bin/sh", "-ec", value],
            cwd=self._folder,
            env=self._environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
