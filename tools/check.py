"""Runs every check that is not a test, and says which failed and how to repair it.

Each check runs even when one before it failed: a change is repaired in one round.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


class Check(NamedTuple):
    """A command that has to succeed, and what to do when it does not."""

    name: str
    command: tuple[str, ...]
    repair: str = "see above"


CHECKS = (
    Check("format", ("ruff", "format", "--check", "--quiet", "."), "make format"),
    Check("lint", ("ruff", "check", "--quiet", "."), "make format repairs some of it"),
    Check("types", ("mypy",)),
    Check("layers", ("lint-imports", "--no-logo"), "move the module, or give it a place in pyproject.toml"),
    Check("contract", ("buf", "lint", "proto")),
    Check("generated", ("python", "tools/generate.py", "--check"), "make generate"),
    Check("chart", ("python", "tools/chart.py")),
    Check("image", ("hadolint", "Dockerfile")),
)


def passes(check: Check) -> bool:
    """Runs one check quietly; shows what it printed only when it failed."""
    started = time.monotonic()
    program, *arguments = check.command
    command = [str(BIN / program), *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    outcome = "failed" if done.returncode else "ok"
    if done.returncode:
        print(done.stdout + done.stderr, flush=True)
    print(f"{check.name:<10} {outcome} ({time.monotonic() - started:.1f} s)", flush=True)
    return not done.returncode


def main() -> int:
    """Runs the checks named as arguments, or all of them."""
    wanted = [check for check in CHECKS if not sys.argv[1:] or check.name in sys.argv[1:]]
    failed = [check for check in wanted if not passes(check)]
    for check in failed:
        print(f"{check.name} failed: {check.repair}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
