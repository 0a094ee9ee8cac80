"""The steps of `entitlements planstore rotate-key`, and what to do after each."""

from __future__ import annotations

from collections.abc import Callable

import click

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.bootstrap import open_database
from entitlement_sidecar.planstore.config import PlanstoreConfig
from entitlement_sidecar.planstore.snapshots.resealing import holds_signed, in_force, signed_otherwise
from entitlement_sidecar.planstore.snapshots.rotation import prepare, retire, switch
from entitlement_sidecar.wire.signing import SigningKey


def run_step(step: str, config: PlanstoreConfig) -> None:
    """Does one step and tells the next one.

    Raises:
        ConfigurationError: It cannot be done now; says why, and what would be right.
    """
    _STEPS[step](config)


def _prepare(config: PlanstoreConfig) -> None:
    key = prepare(config.key_files)
    click.echo(f"next key {key.key_id} is in {config.key_files.next}; {config.trusted_keys_path} trusts it.")
    click.echo(
        "1. Give that file to every sidecar that has --trusted-keys, and start those sidecars again.\n"
        "2. Start this plan store again, and give others (--also-trust) the file too: they tell the key to\n"
        "   sidecars without --trusted-keys.\n"
        "3. Then: entitlements planstore rotate-key switch"
    )


def _switch(config: PlanstoreConfig) -> None:
    key = switch(config.key_files)
    click.echo(f"{config.key_path} holds key {key.key_id} now; the one before is kept in {config.state_dir}.")
    click.echo(
        "1. Start every plan store again with it; they sign all snapshots again in the background.\n"
        "2. Wait until entitlement_resealing_left is 0 and `entitlements snapshots verify` finds no fault.\n"
        "3. Then: entitlements planstore rotate-key retire"
    )


def _retire(config: PlanstoreConfig) -> None:
    current = SigningKey.load(config.key_path).key_id
    database = open_database(config)
    try:
        with database.reading() as session:
            left = signed_otherwise(session, current)
            done = not left and (in_force(session, current) or not holds_signed(session))
    finally:
        database.close()
    if not done:
        snapshots = "1 snapshot is" if left == 1 else f"{left} snapshots are"
        what = snapshots if left else "the catalogue is"
        raise ConfigurationError(
            f"{what} signed by another key than {current}: "
            "start the plan stores with it, and wait until entitlement_resealing_left is 0"
        )
    gone = retire(config.key_files)
    click.echo(f"{config.trusted_keys_path} trusts {current} alone; retired: {', '.join(gone) or 'none'}.")
    click.echo("Give that file to every sidecar that has --trusted-keys, and start those sidecars again.")
    if gone:
        click.echo(f"Keep {config.key_files.former}: the audit log is verified with what it holds.")


_STEPS: dict[str, Callable[[PlanstoreConfig], None]] = {
    "prepare": _prepare,
    "switch": _switch,
    "retire": _retire,
}
