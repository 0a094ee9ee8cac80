"""Where commands send their questions: the options that name a sidecar or a plan store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from entitlement_sidecar.cli.rest import PlanstoreRest
    from entitlement_sidecar.client import Credentials

QUICKSTART_TOKEN = Path("~/.local/state/entitlements/quickstart/token")
"""Used where no token file is named: what `entitlements quickstart` has made."""

GREATEST = 2**53 - 1
"""The greatest number of the contract (`catalogue.MAX_QUANTITY`; its import would cost `--help`)."""

_REMEMBERED = f"{__name__}.sidecar"

_PAGE = 500
"""Entries of a list per call."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Whole(click.ParamType[int]):
    """A whole number that the product can count to."""

    name = "whole number"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """N for options; arguments have names of their own."""
        del ctx
        return None if isinstance(param, click.Argument) else "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's
        """The number, or what would be one."""
        with suppress(ValueError):
            if self._least <= int(value) <= GREATEST:
                return int(value)
        return self.fail(f"{value!r}: expected a whole number from {self._least} to {GREATEST}", param, ctx)


_CREDENTIALS = {
    "token_file": ("--sidecar-token-file", "File with the token by which the sidecar knows this caller."),
    "ca_file": ("--sidecar-ca", "PEM file of the authorities of the sidecar's certificate: TLS is used."),
    "certificate_file": ("--sidecar-cert", "PEM file with this caller's certificate, for mTLS."),
    "key_file": ("--sidecar-key", "PEM file with its key."),
}
"""Options by what they are for clients."""


def sidecar_options(command: _Command) -> _Command:
    """Adds `--sidecar` to a command, and what `sidecar_credentials` reads."""
    for name, (flag, meaning) in reversed(_CREDENTIALS.items()):
        command = click.option(
            flag,
            name,
            envvar=f"ENTITLEMENTS_{flag[2:].replace('-', '_').upper()}",
            show_envvar=True,
            type=click.Path(path_type=Path, dir_okay=False),
            expose_value=False,
            callback=_remember,
            help=meaning,
        )(command)
    return click.option(
        "--sidecar",
        envvar="ENTITLEMENTS_SIDECAR",
        default="127.0.0.1:7400",
        show_default=True,
        show_envvar=True,
        metavar="ADDRESS",
        help="The sidecar: HOST:PORT or unix:/path.",
    )(command)


def _remember(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    context.meta.setdefault(_REMEMBERED, {})[option.name] = path


def sidecar_credentials() -> Credentials:
    """What the sidecar is shown, as the options of this call say."""
    from entitlement_sidecar.client import Credentials  # noqa: PLC0415 - keeps --help quick

    return Credentials(**click.get_current_context().meta.get(_REMEMBERED, {}))


def planstore_options(command: _Command) -> _Command:
    """Adds `--planstore` and `--token-file` to a command."""
    token = click.option(
        "--token-file",
        envvar="ENTITLEMENTS_TOKEN_FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        show_envvar=True,
        help=f"File with the plan store's bearer token. [default: {QUICKSTART_TOKEN}]",
    )
    url = click.option(
        "--planstore",
        envvar="ENTITLEMENTS_PLANSTORE_URL",
        default="http://127.0.0.1:7410",
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="The plan store's REST.",
    )
    return url(token(command))


version_option = click.option(
    "--expected-version",
    type=Whole(),
    metavar="N",
    help="Change it only if this is still its version; 0: only if there is none.",
)
"""Adds `--expected-version` to a command."""


def _why(context: click.Context) -> str:
    return context.find_root().params.get("reason") or ""


def _required_why(context: click.Context, option: click.Parameter, value: str | None) -> str:
    why = value or _why(context)
    if not why:
        raise click.MissingParameter(ctx=context, param=option)
    return why


why_option = click.option(
    "--reason", callback=_required_why, help="Why; people and the audit log will ask.  [required]"
)
"""Adds the `--reason` of what is kept with one. What was given before the command counts too."""


def organization_pages(
    rest: PlanstoreRest, tenant: str, name: str, limit: int, path: str = ""
) -> list[dict[str, Any]]:
    """Entries of a list of a tenant, page after page, up to `limit`; `name` is the list's member."""
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    return pages(rest, organization(tenant, path or name), name, limit)


def pages(
    rest: PlanstoreRest,
    path: str,
    name: str,
    limit: int,
    **query: Any,  # noqa: ANN401 - what a query holds
) -> list[dict[str, Any]]:
    """Entries of a list, page after page, up to `limit`, saying where there are more. `name`: its member."""
    from entitlement_sidecar.cli.output import tell_more  # noqa: PLC0415 - keeps --help quick

    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < limit:
        asked = min(_PAGE, limit - len(found))
        page = rest.get(path, limit=asked, cursor=cursor, **query)
        found += page[name]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    tell_more(len(found), cursor)
    return found


def connect(planstore: str, token_file: Path | None) -> PlanstoreRest:
    """The plan store's REST, with its token.

    Raises:
        ConfigurationError: The URL is malformed, or there is no token; names the option.
    """
    from entitlement_sidecar.cli.rest import PlanstoreRest  # noqa: PLC0415 - keeps --help quick

    return PlanstoreRest(planstore, _token(token_file), _why(click.get_current_context()))


def _token(named: Path | None) -> str:
    from entitlement_sidecar.domain.errors import ConfigurationError  # noqa: PLC0415
    from entitlement_sidecar.wire.token_file import read_token  # noqa: PLC0415

    try:
        return read_token((named or QUICKSTART_TOKEN).expanduser(), "token file")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}; name the plan store's with --token-file or ENTITLEMENTS_TOKEN_FILE"
        ) from error


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` texts of a repeatable option."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{text!r}: expected KEY=VALUE", param_hint=option)
        if key in found:
            raise click.BadParameter(f"{key!r} is given twice", param_hint=option)
        found[key] = value
    return found
