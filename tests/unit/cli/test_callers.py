"""`entitlements callers token`, and the credentials with which commands ask a sidecar."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from entitlement_sidecar.cli.main import run
from entitlement_sidecar.sidecar.rpc.callers_file import read_callers
from support.certificates import LOCAL, Authority
from support.processes import Sidecar
from support.waiting import until

CATALOGUE = """\
catalogue: alone
features:
  sso: {kind: boolean}
metrics:
  calls: {domain: api, unit: call, classification: non_billable}
plans:
  pro:
    price: {amount: "10.00", currency: EUR}
    billing_period: month
    entitlements: {sso: true}
tenants:
  acme: {plan: pro}
  globex: {plan: pro}
"""


@pytest.mark.parametrize(
    ("options", "tenants"),
    [([], None), (["--tenant", "acme", "--tenant", "b@c"], frozenset({"acme", "b@c"}))],
)
def test_a_token_is_printed_once_with_its_entry(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], tenants: frozenset[str] | None
) -> None:
    """The entry is what the callers file takes, and holds nothing of the token."""
    assert run(["callers", "token", "checkout", *options]) == 0

    printed = capsys.readouterr()
    token = printed.out.strip()
    file = tmp_path / "callers.yaml"
    file.write_text("callers:\n" + printed.err)
    (caller,) = read_callers(file)
    assert (caller.name, caller.tenants) == ("checkout", tenants)
    assert caller.token_sha256 == hashlib.sha256(token.encode()).digest()
    assert token not in printed.err


def test_a_token_goes_into_a_file_that_nobody_else_reads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is not printed then, and no file is overwritten."""
    file = tmp_path / "checkout.token"
    assert run(["callers", "token", "checkout", "--to", str(file)]) == 0
    printed = capsys.readouterr()
    token = file.read_text().strip()
    assert (file.stat().st_mode & 0o777, printed.out) == (0o600, "")
    assert hashlib.sha256(token.encode()).hexdigest() in printed.err

    assert run(["callers", "token", "checkout", "--to", str(file)]) == 2
    printed = capsys.readouterr()
    assert "is there already" in printed.err
    assert (file.read_text().strip(), "token_sha256" in printed.err) == (token, False)


@pytest.mark.parametrize("arguments", [["Check Out"], ["checkout", "--tenant", "*"]])
def test_what_the_file_would_refuse_is_refused_here(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No token is made for a name or a tenant that cannot be."""
    assert run(["callers", "token", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "expected 1 to" in printed.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, a token, and a callers file."""
    folder = tmp_path_factory.mktemp("callers")
    authority = Authority()
    (folder / "ca.crt").write_bytes(authority.pem)
    authority.signs(*LOCAL).write(folder, "server")
    authority.signs(*LOCAL).write(folder, "client")
    (folder / "token").write_text("secret\n")
    digest = hashlib.sha256(b"secret").hexdigest()
    (folder / "callers.yaml").write_text(
        f"callers:\n  - {{name: checkout, token_sha256: '{digest}', tenants: [acme]}}\n"
    )
    (folder / "tenants.yaml").write_text(CATALOGUE)
    return folder


@pytest.fixture(scope="module")
def secured(folder: Path) -> Iterator[Sidecar]:
    """A sidecar with mTLS and callers."""
    options = {
        "--tls-cert": "server.crt",
        "--tls-key": "server.key",
        "--tls-client-ca": "ca.crt",
        "--callers": "callers.yaml",
        "--snapshot-file": "tenants.yaml",
    }
    paths = (part for flag, name in options.items() for part in (flag, str(folder / name)))
    sidecar = Sidecar(folder / "state", *paths, front="aio").start()
    yield sidecar
    sidecar.kill()


def credentials(folder: Path, *flags: str) -> list[str]:
    """Options with their files."""
    files = {"token-file": "token", "ca": "ca.crt", "cert": "client.crt", "key": "client.key"}
    return [part for flag in flags for part in (f"--sidecar-{flag}", str(folder / files[flag]))]


@pytest.mark.parametrize(
    ("command", "flags", "code"),
    [
        (["check", "acme", "sso"], ["token-file", "ca", "cert", "key"], 0),
        (["watch", "acme", "--once"], ["token-file", "ca", "cert", "key"], 0),
        (["report", "acme", "calls", "1"], ["token-file", "ca", "cert", "key"], 0),
        (["check", "globex", "sso"], ["token-file", "ca", "cert", "key"], 2),
        (["check", "acme", "sso"], ["ca", "cert", "key"], 2),
        (["check", "acme", "sso"], ["token-file", "ca"], 3),
        (["check", "acme", "sso"], ["token-file", "ca", "cert"], 2),
        (["check", "acme", "sso"], ["token-file", "cert", "key"], 2),
    ],
)
def test_commands_show_who_asks(
    secured: Sidecar, folder: Path, command: list[str], flags: list[str], code: int
) -> None:
    """Token, certificate and authority are read from files; what is missing is refused with its reason."""
    sidecar = ["--sidecar", f"127.0.0.1:{secured.port}"]
    assert run([*command, *sidecar, *credentials(folder, *flags)]) == code


def test_a_certificate_that_is_not_accepted_is_named(
    secured: Sidecar, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody answers: it is the certificates that do not fit, and the message does not say otherwise."""
    (tmp_path / "other.crt").write_bytes(Authority("other").pem)
    asked = ["check", "acme", "sso", "--sidecar", f"127.0.0.1:{secured.port}"]

    def told(text: str, *options: str) -> bool:
        return run([*asked, *options]) == 3 and text in capsys.readouterr().err

    until(lambda: told("certificate shown at", "--sidecar-ca", str(tmp_path / "other.crt")), "the authority")
    until(lambda: told("it may ask for TLS"), "a sidecar with TLS")
