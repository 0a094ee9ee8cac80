"""`entitlements catalogue`: plans as configuration, kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.catalogue_changes import print_changes, print_losses
from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.targets import Whole, connect, planstore_options

_FILE = click.Path(path_type=Path, dir_okay=False)
_CATALOGUE = "/api/billing/catalogue"
_FEATURES = "/api/billing/features"
_PAGE = 1000


@click.group("catalogue")
def catalogue() -> None:
    """Validate, compare, apply and export plans as configuration."""


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


@catalogue.command("schema")
def schema() -> None:
    """Print the JSON schema of catalogue files, for editors."""
    from entitlement_sidecar.wire.catalogue_schema import published  # noqa: PLC0415 - keeps --help quick

    click.echo(published(), nl=False)


@catalogue.command("diff")
@click.argument("file", type=_FILE)
@planstore_options
@output_option
def diff(file: Path, planstore: str, token_file: Path | None, output: str) -> None:
    """Say what applying FILE would change, field by field, and which tenants would lose or gain what."""
    text = _checked(file)
    print_changes(connect(planstore, token_file).post_yaml(f"{_CATALOGUE}/diff", text), output)


@catalogue.command("apply")
@click.argument("file", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what would change, as `diff` does.")
@click.option("--accept-losses", is_flag=True, help="Also take from tenants what they have.")
@planstore_options
@output_option
@click.pass_context
def apply(
    context: click.Context,
    /,
    file: Path,
    planstore: str,
    token_file: Path | None,
    **chosen: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Make FILE the plan store's catalogue. Safe to repeat; subscribers keep the versions they bought.

    What takes something in use from tenants is refused unless --accept-losses.
    """
    from entitlement_sidecar.domain.errors import LossesError  # noqa: PLC0415 - keeps --help quick

    text, rest, output = _checked(file), connect(planstore, token_file), chosen["output"]
    if chosen["dry_run"]:
        print_changes(rest.post_yaml(f"{_CATALOGUE}/diff", text), output)
        return
    accepted = "true" if chosen["accept_losses"] else None
    try:
        answer = rest.post_yaml(_CATALOGUE, text, accept_losses=accepted)
    except LossesError as error:
        print_losses(error.losses, str(file))
        context.exit(2)
    print_record(answer, output)
    for metric, events in answer.get("held_usage", {}).items():
        click.echo(
            f"{events} events of {metric} wait in quarantine; to have them count: "
            f"entitlements usage quarantine replay --metric {metric}",
            err=True,
        )


@catalogue.command("export")
@click.option("--version", type=Whole(1), metavar="N", help="One before. [default: what is in force]")
@planstore_options
def export(version: int | None, planstore: str, token_file: Path | None) -> None:
    """Print the plan store's catalogue as a file that `apply` accepts."""
    click.echo(connect(planstore, token_file).get_text(f"{_CATALOGUE}/export", version=version), nl=False)


@catalogue.command("show")
@planstore_options
@output_option
def show(planstore: str, token_file: Path | None, output: str) -> None:
    """Show the catalogue in force: its version, and what is in it."""
    found = connect(planstore, token_file).get(_CATALOGUE)
    if output == "table":
        keys = {name: [one["key"] for one in found[name]] for name in ("features", "metrics")}
        found = {
            name: ", ".join(part) if isinstance(part, list) else part for name, part in (found | keys).items()
        }
    print_record(found, output)


@catalogue.command("features")
@planstore_options
@output_option
def features(planstore: str, token_file: Path | None, output: str) -> None:
    """List the features of the catalogue in force."""
    rest, found = connect(planstore, token_file), []
    cursor: str | None = None
    while True:
        page = rest.get(_FEATURES, cursor=cursor, limit=_PAGE)
        found += page["features"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    print_records(found, ("key", "kind", "metric", "title"), output)


def _checked(file: Path) -> str:
    """The file's text, once nothing is wrong with it: what is, is said before anything is sent."""
    from entitlement_sidecar.wire.catalogue_file import parse_catalogue, text_of  # noqa: PLC0415

    text = text_of(file)
    parse_catalogue(text, str(file))
    return text
