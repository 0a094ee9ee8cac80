"""Processes of one test, ended when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.faulty_site import FaultySite
from support.processes import Planstore, Sidecar, Site
from support.refusals import assert_explained
from support.waiting import until

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


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serves the tests that only ask for what is wrong; all that it says meanwhile has to be for people."""
    folder = tmp_path_factory.mktemp("site")
    store = Planstore(folder / "planstore").start()
    with ExitStack() as stack:
        stack.callback(store.kill)
        store.apply(CATALOGUE)
        store.subscribe("acme", "large")
        upstream = ("--planstore", f"127.0.0.1:{store.grpc_port}", "--token-file", str(store.state / "token"))
        beside = {front: Sidecar(folder / front, *upstream, front=front).start() for front in ("fast", "aio")}
        for one in beside.values():
            stack.callback(one.kill)
        until(
            lambda: all(one.check("acme", "sso").allowed for one in beside.values()), "the tenant to be held"
        )
        yield Site(store, beside)
        for process in (store.process, *(one.process for one in beside.values())):
            assert process is not None
            assert process.running
            assert_explained(process.output)


@pytest.fixture(scope="module")
def _faulty_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySite]:
    """Started once for the tests of a file."""
    with ExitStack() as stack:
        catalogue = Path(__file__).parent / "faulty_catalogue.yaml"
        yield FaultySite(tmp_path_factory.mktemp("site"), catalogue, stack)


@pytest.fixture
def faulty_site(_faulty_site: FaultySite) -> FaultySite:
    """Processes with proxies between them that break on demand; whole and current when a test begins."""
    _faulty_site.heal()
    return _faulty_site
