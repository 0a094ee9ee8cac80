"""`entitlements callers`: tokens of the callers of a sidecar."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import click

from entitlement_sidecar.cli.private_file import new_private_file

PREFIX = "entc_"
"""By which people, and scanners of repositories, know such a token."""


@click.group("callers")
def callers() -> None:
    """Make tokens for callers of a sidecar."""


@callers.command("token")
@click.argument("name")
@click.option(
    "--tenant", "tenants", multiple=True, metavar="TENANT", help="Only this one; repeatable. [default: all]"
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the token into a new file that only you can read.",
)
def token(*, name: str, tenants: tuple[str, ...], to: Path | None) -> None:
    """Make a token for the caller NAME: it is printed once, and its entry for the callers file on stderr.

    \b
    entitlements callers token checkout --to checkout.token
    """  # noqa: D301 - click wants the character itself: lines stay as they are
    _check(name, tenants)
    # 256 random bits: a digest of them leads back to nothing, and needs no salt.
    secret = PREFIX + secrets.token_urlsafe(32)
    listed = ", ".join(f'"{one}"' for one in tenants)
    allowed = f"[{listed}]" if tenants else '"*"'
    if to is None:
        click.echo(secret)
    else:
        with new_private_file(to) as file:
            file.write(f"{secret}\n")
    click.echo(
        f"  - name: {name}\n"
        f'    token_sha256: "{hashlib.sha256(secret.encode()).hexdigest()}"\n'
        f"    tenants: {allowed}",
        err=True,
    )


def _check(name: str, tenants: tuple[str, ...]) -> None:
    from entitlement_sidecar.wire.fields import (  # noqa: PLC0415 - keeps --help quick
        KEY_FORM,
        TENANT_FORM,
        expected,
        is_key,
        is_tenant,
    )

    if not is_key(name):
        raise click.BadParameter(expected(KEY_FORM, name), param_hint="NAME")
    for tenant in tenants:
        if not is_tenant(tenant):
            raise click.BadParameter(expected(TENANT_FORM, tenant), param_hint="--tenant")
