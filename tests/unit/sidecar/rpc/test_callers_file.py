"""The callers file: what it says, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.rpc.callers_file import MAX_CALLERS, Caller, read_callers
from entitlement_sidecar.sidecar.rpc.socket_access import SocketAccess

DIGEST = "ab" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "callers.yaml"


def test_each_kind_of_caller_is_understood(file: Path) -> None:
    """A token's digest, a certificate's name, a socket with mode and group."""
    file.write_text(
        f"""\
callers:
  - name: checkout
    token_sha256: {DIGEST.upper()}
    tenants: [acme, globex]
    emitters: [cart, search]
  - {{name: batch, san: 'spiffe://Example.org/Batch', tenants: "*"}}
  - {{name: reports, san: Reports.Example.org, tenants: "*"}}
  - name: exports
    socket: /run/entitlements/exports.sock
    mode: 0660
    group: exports
    tenants: [acme]
"""
    )
    acme = frozenset({"acme"})
    assert read_callers(file) == [
        Caller(
            "checkout",
            frozenset({"acme", "globex"}),
            token_sha256=bytes.fromhex(DIGEST),
            emitters=frozenset({"cart", "search"}),
        ),
        Caller("batch", None, san="spiffe://Example.org/Batch"),
        Caller("reports", None, san="reports.example.org"),
        Caller(
            "exports", acme, socket="/run/entitlements/exports.sock", access=SocketAccess(0o660, "exports")
        ),
    ]


def test_a_digest_of_digits_alone_needs_no_quotes(file: Path) -> None:
    """YAML takes it for a number; it is read as it is written."""
    file.write_text(f"callers:\n  - {{name: checkout, token_sha256: {'0' * 64}, tenants: '*'}}\n")
    assert read_callers(file)[0].token_sha256 == bytes(32)


@pytest.mark.parametrize(
    ("caller", "at", "says"),
    [
        ("{}", "{}", "expected exactly one of token_sha256, san, socket, got none"),
        ("checkout", "checkout", "expected name, token_sha256"),
        ("{name: Check Out, san: a.b, tenants: '*'}", "name", "lower-case letters"),
        ("{san: a.b, tenants: '*'}", "{", "starting with a letter, got None"),
        ("{name: a, san: a.b}", "{", "expected a list of tenant ids"),
        ("{name: a, san: a.b, tenants: []}", "tenants", "expected a list of tenant ids"),
        ("{name: a, san: a.b, tenants: acme}", "tenants", "expected a list of tenant ids"),
        ("{name: a, san: a.b, tenants: ['*']}", "'*'", 'write tenants: "*" for every tenant'),
        ("{name: a, san: a.b, tenants: [b, 'b c']}", "'b c'", "starting with a letter or digit"),
        ("{name: a, san: a.b, tenants: '*', emitters: cart}", "emitters", "expected a list of emitters"),
        ("{name: a, san: a.b, tenants: '*', emitters: [The Cart]}", "emitters", "lower-case letters"),
        ("{name: a, san: a.b, tenants: '*', role: admin}", "role", "'role': unknown"),
        ("{name: a, san: a.b, socket: /s, tenants: '*'}", "{", "got san and socket"),
        ("{name: a, san: a.b, mode: 0600, tenants: '*'}", "mode", "only for a caller with a socket"),
        ("{name: a, socket: /s, mode: 0400, tenants: '*'}", "mode", "such as 0600 or 0660"),
        ("{name: a, socket: s, tenants: '*'}", "socket", "the absolute path of a socket"),
        ("{name: a, san: 'a b', tenants: '*'}", "san", "a URI or DNS name"),
        ("{name: a, 'name': b, san: a.b, tenants: '*'}", "'name'", "'name' stands twice"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(file: Path, caller: str, at: str, says: str) -> None:
    """The file, the line and column, and what would be right."""
    file.write_text(f"callers:\n  - {caller}\n")
    with pytest.raises(ConfigurationError) as caught:
        read_callers(file)
    line = next(one for one in str(caught.value).splitlines() if says in one)
    column = len("  - ") + caller.index(at) + 1
    assert line.startswith(f"--callers {file}: line 2, column {column}: ")


def test_a_token_in_the_place_of_its_digest_is_not_repeated(file: Path) -> None:
    """The message goes to a log."""
    file.write_text("callers:\n  - {name: a, token_sha256: hunter2, tenants: '*'}\n")
    with pytest.raises(ConfigurationError, match="64 hex digits") as caught:
        read_callers(file)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("name", "{name: a, san: a.b, tenants: '*'}", "{name: a, san: c.d, tenants: '*'}"),
        ("san", "{name: a, san: a.b, tenants: '*'}", "{name: b, san: A.B, tenants: '*'}"),
        ("socket", "{name: a, socket: /s, tenants: '*'}", "{name: b, socket: /s, tenants: '*'}"),
        (
            "token_sha256",
            f"{{name: a, token_sha256: {DIGEST}, tenants: '*'}}",
            f"{{name: b, token_sha256: {DIGEST.upper()}, tenants: '*'}}",
        ),
        (
            "token_sha256",
            f"{{name: a, token_sha256: {'1' * 64}, tenants: '*'}}",
            f"{{name: b, token_sha256: '{'1' * 64}', tenants: '*'}}",
        ),
    ],
)
def test_callers_that_nobody_could_tell_apart_are_refused(
    file: Path, key: str, first: str, second: str
) -> None:
    """Each has a name and an identity of its own."""
    file.write_text(f"callers:\n  - {first}\n  - {second}\n")
    with pytest.raises(ConfigurationError, match=f"line 3, column .*: {key} stands twice"):
        read_callers(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "line 1, column 1: expected `callers:` with a list"),
        ("callers: {}\n", "expected `callers:` with a list"),
        ("callers: []\nversion: 1\n", "line 2, column 1: 'version': unknown"),
        ("callers: [\n", "not YAML"),
        ("callers: [" + "{}," * (MAX_CALLERS + 1) + "]", f"expected at most {MAX_CALLERS} callers"),
    ],
)
def test_a_file_that_is_none_is_refused_whole(file: Path, content: str, says: str) -> None:
    """Nothing of it takes effect."""
    file.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        read_callers(file)
    assert f"--callers {file}:" in str(caught.value)
    assert says in str(caught.value)


def test_files_that_cannot_be_read_are_named(file: Path) -> None:
    """One that is not there, and one that is no text."""
    with pytest.raises(ConfigurationError, match=r"callers\.yaml: No such file"):
        read_callers(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_callers(file)
