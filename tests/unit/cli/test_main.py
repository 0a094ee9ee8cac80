"""Where the command starts: help, what is imported, messages and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from entitlement_sidecar.cli import main as main_module
from entitlement_sidecar.cli.main import cli, run
from entitlement_sidecar.domain.errors import (
    ConfigurationError,
    EntitlementsError,
    InvalidInputError,
    SourceUnavailableError,
)
from support.commands import Run


def raising(error: Exception) -> click.Command:
    """A command that fails."""

    @click.command("fails")
    def fails() -> None:
        raise error

    return fails


def test_help_lists_every_command_and_imports_none() -> None:
    """A person who asks for help waits for nothing that help does not need."""
    script = (
        "import sys; from entitlement_sidecar.cli.main import run; assert run(['--help']) == 0;"
        "heavy = {'grpc', 'rich', 'yaml', 'jsonschema', 'sqlalchemy', 'fastapi', 'redis'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == "[]"
    for name in cli.list_commands(click.Context(cli)):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_every_command_explains_itself(entitlements: Run, name: str) -> None:
    """Each command and each of its options has a line of help."""
    result = entitlements(name, "--help")
    assert (result.code, result.err) == (0, "")
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    nested = command.commands.values() if isinstance(command, click.Group) else ()
    for one in (command, *nested):
        assert one.help
        assert all(option.help for option in one.params if isinstance(option, click.Option)), one.name


def test_options_of_processes_are_environment_variables() -> None:
    """A chart sets them without arguments."""
    for name in ("sidecar", "planstore"):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        variables = {option.name: option.envvar for option in command.params}
        assert variables["state_dir"] == "ENTITLEMENTS_STATE_DIR"
        assert variables["token_file"] == "ENTITLEMENTS_TOKEN_FILE"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("subscribe",), "no command 'subscribe'; one of quickstart, sidecar"),
        (("check",), "Missing argument 'TENANT'"),
        (("check", "acme", "tasks", "--consume", "many"), "'many': expected a whole number"),
        (("check", "acme", "tasks", "--consume", "-1"), "'-1': expected a whole number from 0"),
        (("check", "acme", "tasks", "--consume", "1", "--peek", "1"), "give one of them"),
        (("check", "acme", "tasks", "--value", "{"), "is not JSON"),
        (("check", "acme", "tasks", "--output", "xml"), "'json'"),
        (("report", "acme", "tasks", "1.5"), "'1.5': expected a whole number"),
        (("report", "acme", "tasks", "1", "--occurred-at", "2026-01-01T00:00:00"), "an instant with a zone"),
        (("report", "acme", "tasks", "1", "--occurred-at", "noon"), "an instant with a zone"),
        (("report", "acme", "tasks", "1", "--dimension", "eu"), "expected KEY=VALUE"),
        (("report", "acme", "tasks", "1", "--dimension", "a=1", "--dimension", "a=2"), "given twice"),
        (("subscriptions", "create", "acme"), "Missing option '--plan'"),
        (("subscriptions", "create", "acme", "--plan", "p", "--add-on", "x=-1"), "a number of 0 or more"),
    ],
    ids=str,
)
def test_wrong_input_says_what_would_be_right(
    entitlements: Run, arguments: tuple[str, ...], said: str
) -> None:
    """Exit code 2, a message, no traceback, nothing on standard output."""
    result = entitlements(*arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("--listen: expected HOST:PORT"), 2),
        (InvalidInputError.of("tenant", "is required"), 2),
        (SourceUnavailableError("nobody there"), 3),
        (ExceptionGroup("tasks", [SourceUnavailableError("nobody there")]), 3),
    ],
    ids=str,
)
def test_errors_are_messages_and_exit_codes(
    entitlements: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    """What can be mended says how; what may pass has a code of its own."""
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: raising(error))
    result = entitlements("check")
    known = error if isinstance(error, EntitlementsError) else SourceUnavailableError("nobody there")
    assert (result.code, result.out, result.err) == (code, "", f"Error: {known}\n")


def test_a_missing_extra_is_named(entitlements: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install has no control plane; the message says how to get it."""
    error = ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: raising(error))
    result = entitlements("check")
    assert result.code == 2
    assert "pip install 'entitlement-sidecar[planstore]'" in result.err


def test_a_defect_says_so_without_its_inside(entitlements: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback is there for who asks for it."""
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: raising(RuntimeError("password=x")))
    result = entitlements("check")
    assert result.code == 70
    assert "ENTITLEMENTS_DEBUG=1" in result.err
    assert "password" not in result.err

    monkeypatch.setenv("ENTITLEMENTS_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run(["check"])


def test_output_that_nobody_reads_is_no_error() -> None:
    """`entitlements … | head` ends quietly."""
    command = f"{sys.executable} -m entitlement_sidecar.cli completion bash | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "141"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(entitlements: Run, shell: str) -> None:
    """The script names the command and its variable."""
    result = entitlements("completion", shell)
    assert result.code == 0
    assert "_ENTITLEMENTS_COMPLETE" in result.out


def test_completion_completes() -> None:
    """The shell gets the commands that begin as typed."""
    environment = {
        "_ENTITLEMENTS_COMPLETE": "zsh_complete",
        "COMP_WORDS": "entitlements sub",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from entitlement_sidecar.cli.main import main; main()"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert "subscriptions" in done.stdout
