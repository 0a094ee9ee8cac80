"""`entitlements usage rebuild`: makes aggregates again from events, on the plan store's database itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entitlement_sidecar.cli.config_file import config_option
from entitlement_sidecar.cli.output import output_option, print_records
from entitlement_sidecar.cli.planstore_options import database_option, state_option

if TYPE_CHECKING:
    from entitlement_sidecar.planstore.usage.rebuild import Difference, RebuildReport, RebuildRequest

COLUMNS = ("tenant", "metric", "window", "window_start", "classification", "column", "kept", "right")


@click.command("rebuild")
@click.option("--check", is_flag=True, help="Only compare: exit code 1 where something differs.")
@click.option("--tenant", default="", help="Only this tenant.")
@click.option("--metric", default="", help="Only this metric.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]),
    help="Only windows that start at this instant (UTC) or later.",
)
@config_option
@database_option
@state_option
@output_option
def rebuild(*, since: datetime | None, database: str, state_dir: Path, output: str, **wanted: Any) -> None:  # noqa: ANN401 - typed by options
    """Make aggregates again from raw events, or see whether they are what their events add up to.

    Compares bit for bit what follows from events: value, number of events, first and last, unit, end of the
    window, watermark. Lists what differs, and puts it right unless --check is given. Windows whose events
    were removed by retention are left as they are. Plan stores may run meanwhile.
    """
    from entitlement_sidecar.planstore.usage.rebuild import RebuildRequest  # noqa: PLC0415 - keeps --help quick

    request = RebuildRequest(
        tenant_id=wanted["tenant"],
        metric=wanted["metric"],
        since=None if since is None else since.replace(tzinfo=UTC),
        check=wanted["check"],
    )
    report = _run(request, database, state_dir)
    print_records([line for one in report.differences for line in _lines(one)], COLUMNS, output)
    click.echo(_summary(report, check=request.check), err=True)
    if report.different and request.check:
        click.get_current_context().exit(1)


def _run(request: RebuildRequest, database: str, state_dir: Path) -> RebuildReport:
    from entitlement_sidecar.cli.progress import progress  # noqa: PLC0415
    from entitlement_sidecar.domain.clock import SystemClock  # noqa: PLC0415
    from entitlement_sidecar.planstore.bootstrap import open_database  # noqa: PLC0415
    from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state  # noqa: PLC0415
    from entitlement_sidecar.planstore.usage.rebuild import Rebuild  # noqa: PLC0415

    config = PlanstoreConfig(database=database, state_dir=state_dir.expanduser())
    prepare_state(config)
    opened = open_database(config)
    seen = 0

    def advanced(_tenant: str, report: RebuildReport) -> None:
        nonlocal seen
        advance(report.events - seen)
        seen = report.events

    try:
        with progress("reading usage events", None) as advance:
            return Rebuild(opened, SystemClock()).run(request, advanced)
    finally:
        opened.close()


def _lines(difference: Difference) -> list[dict[str, Any]]:
    """One for each column that differs."""
    from entitlement_sidecar.domain.catalogue import Classification  # noqa: PLC0415

    key = difference.key
    where = {
        "tenant": key.tenant_id,
        "metric": key.metric,
        "window": key.window_kind,
        "window_start": key.window_start,
        "classification": Classification(key.classification).name.lower() if key.classification else "",
    }
    return [
        {**where, "column": name, "kept": difference.kept.get(name), "right": right}
        for name, right in difference.right.items()
    ]


def _summary(report: RebuildReport, *, check: bool) -> str:
    done = "differ" if check else "differed and were made again"
    text = f"{report.aggregates} aggregates of {report.events} events: {report.different} {done}"
    if report.skipped:
        text += f"; {report.skipped} were left as they are, since retention removed their events"
    if report.different > len(report.differences):
        text += f"; the first {len(report.differences)} are listed"
    return text
