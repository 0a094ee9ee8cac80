"""Settings that cannot be right: refused at the start with what, where and what would be right; code 2."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support.processes import Process, Site
from support.refusals import SECRET, refused

ANYWHERE = "127.0.0.1:0"
NOBODY = "127.0.0.1:1"
UNKNOWN = "unknown setting; expected one of allow-remote, "


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a token."""
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text("a-token\n")
    return path


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """An address where somebody listens already."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def sidecar_refuses(tmp_path: Path, token: Path) -> Callable[..., str]:
    """Starts a sidecar with settings that are right but for what is given; what it says."""

    def start(*options: str) -> str:
        common = ("--planstore", NOBODY, "--token-file", str(token), "--state-dir", str(tmp_path / "state"))
        return refused("sidecar", "--listen", ANYWHERE, "--http", ANYWHERE, *common, *options)

    return start


@pytest.fixture
def planstore_refuses(shared_site: Site) -> Callable[..., str]:
    """Starts one more plan store with settings that are right but for what is given; what it says."""

    def start(*options: str) -> str:
        common = ("--state-dir", str(shared_site.store.state), "--http", ANYWHERE, "--grpc", ANYWHERE)
        return refused("planstore", *common, *options)

    return start


def says(said: str, parts: Sequence[str]) -> None:
    """Every part is in what was said."""
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--planstore", "http://planstore:7411"], ["--planstore: expected HOST:PORT"]),
        (["--redis", "redis://redis:port/0"], ["--redis: expected redis://HOST:PORT/DATABASE"]),
        (["--redis", "http://redis/0"], ["--redis: expected redis://HOST:PORT/DATABASE"]),
        (["--redis", f"redis://:{SECRET}@redis:port/0"], ["--redis: no password", "--redis-password-file"]),
        (["--redis", "redis://app@redis/0"], ["--redis names a user", "--redis-password-file"]),
        (["--listen", "everywhere"], ["--listen 'everywhere': expected HOST:PORT"]),
    ],
    ids=lambda value: value[-1].replace(SECRET, "") if isinstance(value, list) else None,
)
def test_sidecar_targets(
    sidecar_refuses: Callable[..., str], options: list[str], parts: Sequence[str]
) -> None:
    """A target or URL that is malformed is refused by its form; a password in it is never shown."""
    says(sidecar_refuses(*options), parts)


@pytest.mark.parametrize("front", ["fast", "aio"])
def test_sidecar_grpc_address_in_use(sidecar_refuses: Callable[..., str], taken: str, front: str) -> None:
    """The setting, the address, and what to do, on either front."""
    said = sidecar_refuses("--listen", taken, "--front", front)
    says(said, [f"--listen {taken}: something else listens there already", "choose another port"])


def test_sidecar_probe_address_in_use(sidecar_refuses: Callable[..., str], taken: str) -> None:
    """Also where only the probes could not be served."""
    says(
        sidecar_refuses("--http", taken), [f"--http {taken}: Address already in use; choose another address"]
    )


@pytest.mark.parametrize("setting", ["--http", "--grpc"])
def test_planstore_address_in_use(planstore_refuses: Callable[..., str], taken: str, setting: str) -> None:
    """The setting, the address, and what to do."""
    says(planstore_refuses(setting, taken), [f"{setting} {taken}: ", "hoose another address, or port 0"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory"), ("", "expected one line with a token")],
    ids=["missing", "empty"],
)
def test_sidecar_token_file(
    sidecar_refuses: Callable[..., str], tmp_path: Path, content: str | None, message: str
) -> None:
    """The file is named, and what it has to hold."""
    path = tmp_path / "its-token"
    if content is not None:
        path.write_text(content)
    says(sidecar_refuses("--token-file", str(path)), [f"--token-file {path}: {message}"])


def test_planstore_token_file_is_empty(planstore_refuses: Callable[..., str], tmp_path: Path) -> None:
    """An empty file is not a token that everybody knows."""
    path = tmp_path / "its-token"
    path.touch()
    says(planstore_refuses("--token-file", str(path)), [f"--token-file {path}: expected one line"])


def test_command_token_file_is_missing(tmp_path: Path) -> None:
    """A command says how to name another one."""
    path = tmp_path / "its-token"
    said = refused("plans", "list", "--token-file", str(path))
    says(said, [f"{path}: No such file or directory", "--token-file", "ENTITLEMENTS_TOKEN_FILE"])


def test_subject_key(sidecar_refuses: Callable[..., str], tmp_path: Path) -> None:
    """One that others may read is not used, and nothing of it is said."""
    path = tmp_path / "subjects.key"
    path.write_text(SECRET)
    path.chmod(0o644)
    said = sidecar_refuses("--subject-key-file", str(path))
    says(said, [f"--subject-key-file {path}: others may read", "chmod 600"])
    assert SECRET not in said


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (None, ": No such file or directory"),
        ("# none\n", ": holds no key; expected lines of `KEY_ID"),
        ("\nk1 AAAA\n", ":2: expected"),
    ],
    ids=["missing", "empty", "malformed"],
)
def test_trusted_keys(
    sidecar_refuses: Callable[..., str], tmp_path: Path, content: str | None, place: str
) -> None:
    """The file, the line, and the form of a line."""
    path = tmp_path / "trusted.keys"
    if content is not None:
        path.write_text(content)
    says(sidecar_refuses("--trusted-keys", str(path)), [f"trusted keys {path}{place}"])


def test_signing_key(planstore_refuses: Callable[..., str], tmp_path: Path) -> None:
    """A key is not replaced because it cannot be read, and its text is not repeated."""
    path = tmp_path / "signing.key"
    path.write_text(SECRET)
    said = planstore_refuses("--signing-key", str(path))
    says(said, [f"signing key {path}: expected one line of base64 with 32 bytes"])
    assert path.read_text() == SECRET


def test_database_that_is_away(planstore_refuses: Callable[..., str]) -> None:
    """Why it cannot be reached is said; its password is not."""
    said = planstore_refuses("--database", f"postgresql://u:{SECRET}@{NOBODY}/billing")
    says(said, ["--database: cannot be reached", "port 1 failed: Connection refused"])


def test_database_that_is_none(tmp_path: Path) -> None:
    """The forms that are accepted, and nothing of the text: it may hold a password."""
    url = f"postgresql://u:{SECRET}@host:port/billing"
    state = str(tmp_path / "state")
    said = refused("planstore", "migrate", "--state-dir", state, env={"ENTITLEMENTS_DATABASE": url})
    says(said, ["database: not a database URL; expected sqlite:///", "or postgresql://USER:PASSWORD@HOST"])


@pytest.mark.parametrize("process", ["sidecar", "planstore"])
def test_state_folder_is_a_file(sidecar_refuses: Callable[..., str], tmp_path: Path, process: str) -> None:
    """The setting and the path; the file stays as it was."""
    path = tmp_path / "state-file"
    path.write_text("mine")
    if process == "sidecar":
        said = sidecar_refuses("--state-dir", str(path))
    else:
        said = refused("planstore", "--state-dir", str(path), "--http", ANYWHERE, "--grpc", ANYWHERE)
    says(said, ["--state-dir", f"Directory '{path}' is a file"])
    assert path.read_text() == "mine"


def test_state_folder_inside_a_file(sidecar_refuses: Callable[..., str], tmp_path: Path) -> None:
    """A folder that cannot be made."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "state"
    says(sidecar_refuses("--state-dir", str(path)), [f"--state-dir {path}: Not a directory; give a folder"])


def test_state_folder_of_another_process(
    sidecar_refuses: Callable[..., str], tmp_path: Path, token: Path
) -> None:
    """A second sidecar is refused; the first serves on."""
    state = tmp_path / "held"
    common = ("--planstore", NOBODY, "--token-file", str(token), "--state-dir", str(state))
    first = Process(["sidecar", "--listen", ANYWHERE, "--http", ANYWHERE, *common])
    try:
        first.wait_for("serving on")
        said = sidecar_refuses("--state-dir", str(state))
        says(said, [f"--state-dir {state}: in use by another running process", "a folder of its own"])
        assert first.running
    finally:
        first.kill()


@pytest.mark.parametrize(
    ("process", "content", "place", "problem"),
    [
        ("sidecar", f"log-level: info\n\nredsi: redis://:{SECRET}@redis/0\n", "line 3, column 1", UNKNOWN),
        ("planstore", f"databse: postgresql://u:{SECRET}@db/billing\n", "line 1, column 1", UNKNOWN),
        ("sidecar", "log-level: [info]\n", "line 1, column 1", "'log-level': expected one value"),
        ("sidecar", "redis: a\nlog-level: {\n", "line 3, column 1", "not YAML"),
    ],
    ids=["unknown-sidecar", "unknown-planstore", "wrong-type", "malformed"],
)
def test_config_file(tmp_path: Path, process: str, content: str, place: str, problem: str) -> None:
    """The file, line and column, what is wrong, and which settings there are."""
    path = tmp_path / "config.yaml"
    path.write_text(content)
    said = refused(process, "--config", str(path), "--state-dir", str(tmp_path / "state"))
    says(said, [f"{path}: {place}: ", problem])
