"""`entitlements tokens`: who may call the plan store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from entitlement_sidecar.cli.durations import seconds_of
from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.private_file import new_private_file
from entitlement_sidecar.cli.targets import connect, planstore_options

ROLES = ("viewer", "operator", "billing-admin", "sidecar", "emitter", "ai-agent")
COLUMNS = ("id", "name", "role", "tenants", "state", "expires_at", "last_used_at", "created_by")
PAGE = 1000

_PATH = "/api/billing/tokens"


@click.group("tokens")
def tokens() -> None:
    """Make, list and revoke the tokens with which people and processes call the plan store."""


@tokens.command("create")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(ROLES), required=True, help="What the token may; see docs/access.md."
)
@click.option(
    "--tenant", "tenants", multiple=True, metavar="TENANT", help="Only this one; repeatable. [default: all]"
)
@click.option("--expires-in", metavar="DURATION", help="Such as 90d, 12h, 30m or 60s. [default: never]")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the secret into a new file that only you can read, and print the rest.",
)
@planstore_options
@output_option
def create(
    *,
    name: str,
    tenants: tuple[str, ...],
    expires_in: str | None,
    to: Path | None,
    planstore: str,
    token_file: Path | None,
    output: str,
    role: str,
) -> None:
    """Make a token called NAME, which is never given twice. Its secret is shown this once."""
    body: dict[str, Any] = {"name": name, "role": role, "tenants": list(tenants)}
    if expires_in is not None:
        body["expires_in"] = seconds_of(expires_in, "--expires-in", "90d")
    rest = connect(planstore, token_file)
    with _keeping(to) as keep:
        answer = rest.post(_PATH, body)
        print_record(keep(answer), output)


@tokens.command("list")
@click.option("--ended", is_flag=True, help="Also those that were revoked or have expired.")
@planstore_options
@output_option
def list_tokens(*, ended: bool, planstore: str, token_file: Path | None, output: str) -> None:
    """List tokens, without their secrets."""
    rest = connect(planstore, token_file)
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = rest.get(_PATH, ended=str(ended).lower(), limit=PAGE, cursor=cursor)
        found += page["tokens"]
        cursor = page["next_cursor"]
    print_records(found, COLUMNS, output)


@tokens.command("revoke")
@click.argument("token_id", metavar="ID")
@planstore_options
@output_option
def revoke(token_id: str, planstore: str, token_file: Path | None, output: str) -> None:
    """End the token ID for good. Every plan store refuses it within 5 seconds."""
    path = f"{_PATH}/{quote(token_id, safe='')}/revoke"
    print_record(connect(planstore, token_file).post(path, {}), output)


@contextmanager
def _keeping(to: Path | None) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """What puts a secret where it should be. The file is there before the token is: no secret is lost."""
    if to is None:
        yield lambda answer: answer
        return
    to = to.expanduser()
    written = False

    def keep(answer: dict[str, Any]) -> dict[str, Any]:
        nonlocal written
        file.write(answer["secret"] + "\n")
        file.flush()
        written = True
        return {key: value for key, value in answer.items() if key != "secret"} | {"written_to": str(to)}

    with new_private_file(to) as file:
        try:
            yield keep
        finally:
            if not written:
                to.unlink(missing_ok=True)
