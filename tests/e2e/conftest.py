"""Processes of one test, ended when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.processes import Planstore, Sidecar

CATALOGUE = Path(__file__).parent / "catalogue.yaml"

StartPlanstore = Callable[..., Planstore]
StartSidecar = Callable[..., Sidecar]


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    """What is pushed here ends with the test, the last first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def planstore(tmp_path: Path, ending: ExitStack) -> StartPlanstore:
    """Starts a plan store with the test catalogue."""

    def start(**options: str) -> Planstore:
        store = Planstore(tmp_path / "planstore", **options)
        ending.callback(store.kill)
        store.start()
        store.apply(CATALOGUE)
        return store

    return start


@pytest.fixture
def sidecar(tmp_path: Path, ending: ExitStack) -> StartSidecar:
    """Starts a sidecar of a plan store."""

    def start(store: Planstore, *options: str, name: str = "sidecar", front: str = "fast") -> Sidecar:
        upstream = ("--planstore", f"127.0.0.1:{store.grpc_port}", "--token-file", str(store.state / "token"))
        started = Sidecar(tmp_path / name, *upstream, *options, front=front)
        ending.callback(started.kill)
        return started.start()

    return start
