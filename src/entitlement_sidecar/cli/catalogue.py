"""`entitlements catalogue`: plans as configuration, kept in files."""

from __future__ import annotations

from pathlib import Path

import click

from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.targets import connect, planstore_options

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("catalogue")
def catalogue() -> None:
    """Validate and apply plans as configuration."""


@catalogue.command("validate")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@output_option
@click.pass_context
def validate(context: click.Context, files: tuple[Path, ...], output: str) -> None:
    """Check FILES, catalogues or snapshot files, and list every problem with its line and column."""
    from entitlement_sidecar.domain.errors import InvalidInputError  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.wire.snapshot_file import load_snapshot_file  # noqa: PLC0415

    valid, wrong = [], False
    for path in files:
        try:
            loaded = load_snapshot_file(path)
        except InvalidInputError as error:
            click.echo(str(error), err=True)
            wrong = True
            continue
        found = loaded.catalogue
        counts = {name: len(getattr(found, name)) for name in ("features", "metrics", "plans", "add_ons")}
        valid.append({"file": str(path), "catalogue": found.name, **counts, "tenants": len(loaded.tenants)})
    if valid:
        print_records(valid, list(valid[0]), output)
    context.exit(2 if wrong else 0)


@catalogue.command("apply")
@click.argument("file", type=_FILE)
@planstore_options
@output_option
def apply(file: Path, planstore: str, token_file: Path | None, output: str) -> None:
    """Make FILE the plan store's catalogue. Safe to repeat; subscribers keep the versions they bought."""
    from entitlement_sidecar.wire.catalogue_file import load_catalogue  # noqa: PLC0415 - keeps --help quick

    load_catalogue(file)  # says what is wrong with its place, before anything is sent
    answer = connect(planstore, token_file).post_yaml("/api/billing/catalogue", file.read_text("utf-8-sig"))
    print_record(answer, output)
