"""The real command, given what it must refuse: how it ends, and what it says."""

from __future__ import annotations

import subprocess

from support.commands import Result
from support.processes import ENTITLEMENTS, clean_environment

SECRET = "hunter2"
"""A password that must not be shown."""


def entitlements(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Runs one command to its end, which must come by itself."""
    done = subprocess.run(
        [*ENTITLEMENTS, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**clean_environment(), **(env or {})},
    )
    return Result(done.returncode, done.stdout, done.stderr)


def refused(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Runs one command that has to end with the code of wrong input; what it says."""
    result = entitlements(*arguments, env=env)
    said = result.out + result.err
    assert result.code == 2, said
    assert_explained(said)
    return said


def assert_explained(said: str) -> None:
    """What a process has said is for people: no traceback, no warning of the interpreter, no password."""
    for unwanted in ("Traceback", "ResourceWarning", "internal error", "unexpected error", SECRET):
        assert unwanted not in said, said
