"""The command, run in this process, and a plan store's REST that answers what a test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from entitlement_sidecar.cli.main import run
from support.commands import AnsweringPlanstore, Result, Run


@pytest.fixture
def entitlements(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `entitlements ARGUMENTS`."""
    for variable in ("SIDECAR", "PLANSTORE_URL", "TOKEN_FILE", "DEBUG"):
        monkeypatch.delenv(f"ENTITLEMENTS_{variable}", raising=False)

    def command(*arguments: str) -> Result:
        code = run(list(arguments))
        return Result(code, *capsys.readouterr())

    return command


@pytest.fixture
def planstore() -> Iterator[AnsweringPlanstore]:
    """A plan store's REST, as far as commands can see."""
    server = AnsweringPlanstore()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def at(planstore: AnsweringPlanstore, tmp_path: Path) -> list[str]:
    """The options that lead a command to the plan store."""
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    return ["--planstore", planstore.url, "--token-file", str(token)]
