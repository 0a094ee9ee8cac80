"""A real sidecar of each front, run from a file alone; each test has a tenant of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from support.processes import Sidecar

CATALOGUE = (Path(__file__).parent / "tenants.yaml").read_text("utf-8")
TENANTS = 400
"""More than there are tests that use one."""

_numbers = count()


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Sidecar]]:
    """The sidecar of a front, started once."""
    folder = tmp_path_factory.mktemp("sidecars")
    file = folder / "tenants.yaml"
    file.write_text(CATALOGUE + "".join(f"  t{number}: {{plan: pro}}\n" for number in range(TENANTS)))
    running: dict[str, Sidecar] = {}
    with ExitStack() as stack:

        def start(front: str) -> Sidecar:
            if front not in running:
                running[front] = Sidecar(folder / front, "--snapshot-file", str(file), front=front).start()
                stack.callback(running[front].stop)
            return running[front]

        yield start


@pytest.fixture(params=["fast", "aio"])
def beside(request: pytest.FixtureRequest, started: Callable[[str], Sidecar]) -> Sidecar:
    """A sidecar that tests share, on each front."""
    return started(request.param)


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return f"t{next(_numbers)}"
