"""What a `--redis` setting means, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.wire.redis_credentials import credentials
from entitlement_sidecar.wire.redis_target import RedisKind, RedisTarget, optional_target, redis_target

SECRET = "geheim"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """A file with a password."""
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://redis", RedisTarget(kind=RedisKind.SERVER, nodes=(("redis", 6379),))),
        ("redis://redis:7000/3", RedisTarget(kind=RedisKind.SERVER, nodes=(("redis", 7000),), database=3)),
        ("redis://[::1]:7000", RedisTarget(kind=RedisKind.SERVER, nodes=(("::1", 7000),))),
        (
            "rediss://redis?ssl_ca_certs=/dev/null&ssl_check_hostname=no",
            RedisTarget(
                kind=RedisKind.SERVER,
                nodes=(("redis", 6379),),
                tls={"ssl_ca_certs": "/dev/null", "ssl_check_hostname": False},
            ),
        ),
        (
            "unix:///run/redis.sock?db=2",
            RedisTarget(kind=RedisKind.SERVER, path="/run/redis.sock", database=2),
        ),
        (
            "redis+cluster://one:7000,two",
            RedisTarget(kind=RedisKind.CLUSTER, nodes=(("one", 7000), ("two", 6379))),
        ),
        (
            "rediss+cluster://one/0",
            RedisTarget(kind=RedisKind.CLUSTER, nodes=(("one", 6379),), tls={"ssl_check_hostname": True}),
        ),
        (
            "redis+sentinel://one,two:27000/main/4",
            RedisTarget(
                kind=RedisKind.SENTINEL, nodes=(("one", 26379), ("two", 27000)), primary="main", database=4
            ),
        ),
    ],
)
def test_each_form_names_a_redis(url: str, target: RedisTarget) -> None:
    """Given a form that the documentation shows, then it means that."""
    assert redis_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "http://redis",
        "redis://",
        "redis://redis:port/0",
        "redis://redis:0",
        "redis://redis:65536",
        "redis://redis/first",
        "redis://one,two",
        "redis://redis/0#x",
        "redis://redis?ssl_ca_certs=/ca.crt",
        "redis://redis?socket_timeout=9",
        "rediss://redis?ssl_check_hostname=perhaps",
        "rediss://redis?ssl_cert_reqs=maybe",
        "rediss://redis?ssl_password=x",
        "redis+cluster://one,two/1",
        "redis+cluster://one,,two",
        "redis+sentinel://one,two",
        "redis+sentinel://one/main/first",
        "redis+cloud://one",
        "unix://",
        "unix:///",
        "unix:///run/redis.sock?db=x",
        "redis://[::1",
    ],
)
def test_what_is_none_of_them_is_refused(url: str) -> None:
    """Given anything else, then the error names the setting and every form."""
    with pytest.raises(
        ConfigurationError, match=r"--redis: expected redis://HOST:PORT/DATABASE.*cluster.*PRIMARY"
    ):
        redis_target(url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@redis/0",
        f"redis://app:{SECRET}@redis:port/0",
        f"redis+sentinel://app:{SECRET}@one,two/main",
        f"redis+cluster://app:{SECRET}@one,two",
        f"unix:///run/redis.sock?password={SECRET}",
        f"http://:{SECRET}@redis/0",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    """Given a password where others see it, then the error says where it belongs."""
    with pytest.raises(ConfigurationError, match="--redis-password-file") as refused:
        redis_target(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_files_of_tls_that_cannot_be_read_are_named(option: str, tmp_path: Path) -> None:
    """Given a file that is not there, then a start says which, before any connection fails."""
    missing = tmp_path / "missing.pem"
    with pytest.raises(ConfigurationError, match=rf"--redis: {option}={missing}: No such file"):
        redis_target(f"rediss://redis?{option}={missing}")


def test_a_user_needs_a_password(password_file: Path) -> None:
    """Given a user, then the password comes from the file, and is missed without one."""
    with pytest.raises(ConfigurationError, match="--redis-password-file"):
        redis_target("redis://app@redis")

    target = redis_target("redis://a%40b@redis", password_file)

    assert credentials(target).get_credentials() == ("a@b", SECRET)  # type: ignore[union-attr]


def test_a_password_is_read_again_each_time(password_file: Path) -> None:
    """Given another password in the file, then the next connection uses it; without the file it says why."""
    provider = credentials(redis_target("redis://redis", password_file))
    assert provider is not None
    assert provider.get_credentials() == (SECRET,)

    password_file.write_text("another word")
    assert provider.get_credentials() == ("another word",)
    password_file.unlink()
    with pytest.raises(AuthenticationError, match="--redis-password-file"):
        provider.get_credentials()


def test_without_a_password_nobody_says_who_he_is() -> None:
    """Given neither user nor password, then no credentials are sent."""
    assert credentials(redis_target("redis://redis")) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe"])
def test_a_password_file_holds_one_line(tmp_path: Path, content: bytes) -> None:
    """Given a file with anything else, then the error names it, and repeats nothing of it."""
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"--redis-password-file {path}: expected one line"):
        redis_target("redis://redis", path)


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    """Given no file there, then the error names it."""
    with pytest.raises(ConfigurationError, match="none: No such file"):
        redis_target("redis://redis", tmp_path / "none")


def test_a_password_for_no_redis_is_refused(password_file: Path) -> None:
    """Given a password and no Redis, then something was forgotten."""
    assert optional_target("") is None
    with pytest.raises(ConfigurationError, match="give --redis too"):
        optional_target("", password_file)
