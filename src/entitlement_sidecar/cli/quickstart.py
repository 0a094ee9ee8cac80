"""`entitlements quickstart`: plan store and sidecar in one go, with something to check."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from entitlement_sidecar.cli.targets import QUICKSTART_TOKEN
from entitlement_sidecar.telemetry.logging import configure_logging

_Ready = TypeVar("_Ready")

DEFAULT_STATE = Path("~/.local/state/entitlements/quickstart")
TENANT = "acme"
PLAN = "free"
CATALOGUE = "tasks-and-tokens.yaml"


@click.command("quickstart")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="Folder of everything that is kept; delete it to begin anew.",
)
@click.option("--listen", default="127.0.0.1:7400", show_default=True, help="The sidecar's gRPC.")
@click.option("--http", default="127.0.0.1:7401", show_default=True, help="The sidecar's probes and metrics.")
@click.option("--planstore-http", default="127.0.0.1:7410", show_default=True, help="The plan store's REST.")
@click.option("--planstore-grpc", default="127.0.0.1:7411", show_default=True, help="The plan store's gRPC.")
@click.option("--front", type=click.Choice(["fast", "aio"]), help="Default: fast where it is installed.")
def quickstart(state_dir: Path, **addresses: str | None) -> None:
    """Run a plan store on SQLite and a sidecar, with an example catalogue and tenant; no Redis needed."""
    from entitlement_sidecar.domain.errors import ConfigurationError  # noqa: PLC0415

    try:
        import sqlalchemy  # noqa: F401, PLC0415 - only to say early that an extra is missing
    except ImportError as error:
        raise ConfigurationError(
            "quickstart runs a plan store: pip install 'entitlement-sidecar[planstore,fast]'"
        ) from error
    configure_logging("warning")
    asyncio.run(_run(state_dir.expanduser(), addresses))


async def _run(state_dir: Path, addresses: dict[str, str | None]) -> None:
    from entitlement_sidecar.telemetry.signals import stop_on_signals  # noqa: PLC0415 - keeps --help quick

    stopping = stop_on_signals()
    store_stopping, beside_stopping = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        store = await _start_planstore(group, state_dir, addresses, store_stopping)
        beside, running = await _start_sidecar(group, state_dir, addresses, beside_stopping, store.grpc_port)
        click.echo(_welcome(store, beside, state_dir))
        await stopping.wait()
        click.echo("stopping: the sidecar delivers what it holds, then the plan store ends")
        beside_stopping.set()
        await running
        store_stopping.set()


class _Store(NamedTuple):
    http_port: int
    grpc_port: int
    token: str = ""
    """The first token, where this start has made it."""


class _Beside(NamedTuple):
    address: str
    http_port: int


async def _start_planstore(
    group: asyncio.TaskGroup, state_dir: Path, addresses: dict[str, str | None], stopping: asyncio.Event
) -> _Store:
    from entitlement_sidecar.planstore.bootstrap import seed  # noqa: PLC0415 - an extra
    from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state  # noqa: PLC0415
    from entitlement_sidecar.planstore.db.migrate import migrate  # noqa: PLC0415
    from entitlement_sidecar.planstore.process import serve  # noqa: PLC0415
    from entitlement_sidecar.wire.catalogue_file import load_catalogue  # noqa: PLC0415

    config = PlanstoreConfig(
        state_dir=state_dir,
        http=str(addresses["planstore_http"]),
        grpc=str(addresses["planstore_grpc"]),
    )
    prepare_state(config)
    fresh = not config.token_path.exists()
    migrate(config.database_url)
    seed(config, load_catalogue(example(CATALOGUE)), TENANT, PLAN)
    ready: asyncio.Future[_Store] = asyncio.get_running_loop().create_future()
    task = group.create_task(serve(config, stopping, lambda http, grpc: ready.set_result(_Store(http, grpc))))
    store = await _first(ready, task)
    return store._replace(token=config.token_path.read_text().strip()) if fresh else store


async def _start_sidecar(
    group: asyncio.TaskGroup,
    state_dir: Path,
    addresses: dict[str, str | None],
    stopping: asyncio.Event,
    planstore_port: int,
) -> tuple[_Beside, asyncio.Task[None]]:
    from entitlement_sidecar.sidecar.config import FrontKind, SidecarConfig  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.sidecar.process import serve  # noqa: PLC0415

    installed = FrontKind.FAST if importlib.util.find_spec("pygrpc_native") else FrontKind.AIO
    config = SidecarConfig(
        listen=str(addresses["listen"]),
        http=str(addresses["http"]),
        state_dir=state_dir / "sidecar",
        planstore=f"127.0.0.1:{planstore_port}",
        token_file=state_dir / "token",
        front=FrontKind(addresses["front"]) if addresses["front"] else installed,
    )
    ready: asyncio.Future[_Beside] = asyncio.get_running_loop().create_future()
    task = group.create_task(serve(config, stopping, lambda at, http: ready.set_result(_Beside(at, http))))
    return await _first(ready, task), task


async def _first(ready: asyncio.Future[_Ready], task: asyncio.Task[None]) -> _Ready:
    """What a process says when it serves; where it ends before that, the group raises why."""
    either: list[asyncio.Future[Any]] = [ready, task]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
        raise asyncio.CancelledError
    return ready.result()


def example(name: str) -> Path:
    """An example catalogue: inside the package when installed, at the top of the source tree otherwise."""
    installed = Path(__file__).parent / "catalogues"
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / "examples" / "catalogues"
    return folder / name


def _told(token: str) -> str:
    """The first start shows the token, once: it may everything, so it is in no log of later starts."""
    if not token:
        return "in the file `token` of that folder; it was shown at the first start"
    return f"{token}    (shown this once; it is in the file `token` of that folder)"


def _where(store: _Store, beside: _Beside, state_dir: Path) -> str:
    """What tells commands where it is, unless it is where they look by themselves."""
    usual = {
        "ENTITLEMENTS_SIDECAR": (beside.address, "127.0.0.1:7400"),
        "ENTITLEMENTS_PLANSTORE_URL": (f"http://127.0.0.1:{store.http_port}", "http://127.0.0.1:7410"),
        "ENTITLEMENTS_TOKEN_FILE": (
            str((state_dir / "token").absolute()),
            str(QUICKSTART_TOKEN.expanduser()),
        ),
    }
    return "".join(
        f"  export {name}={shlex.quote(is_at)}\n"
        for name, (is_at, looked) in usual.items()
        if is_at != looked
    )


def _welcome(store: _Store, beside: _Beside, state_dir: Path) -> str:
    command = Path(sys.argv[0])
    entitlements = os.path.relpath(command) if command.name == "entitlements" else "entitlements"
    return f"""
Entitlement Sidecar is running. It began with tenant {TENANT!r} on plan {PLAN!r} of {CATALOGUE}.

  sidecar      gRPC {beside.address}    probes and metrics http://127.0.0.1:{beside.http_port}/metrics
  plan store   REST http://127.0.0.1:{store.http_port}/docs    gRPC 127.0.0.1:{store.grpc_port}
  kept in      {state_dir}
  token        {_told(store.token)}

Try, in a second terminal:

{_where(store, beside, state_dir)}  {entitlements} check {TENANT} tasks --consume 1
  {entitlements} check {TENANT} tasks
  {entitlements} usage summary {TENANT}

Stop with Ctrl-C.
"""
