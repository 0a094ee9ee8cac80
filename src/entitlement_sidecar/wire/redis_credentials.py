"""The password of a Redis, read anew for each connection: a new one needs no restart."""

from __future__ import annotations

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.wire.redis_target import RedisTarget, read_password


class PasswordFile(CredentialProvider):
    """Who calls, and with which password."""

    def __init__(self, target: RedisTarget) -> None:
        self._target = target

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """User and password, or the password alone for the default user.

        Raises:
            AuthenticationError: The file cannot be read now, or is not one line.
        """
        try:
            password = read_password(self._target.password_file) if self._target.password_file else ""
        except ConfigurationError as error:
            raise AuthenticationError(str(error)) from error
        return (self._target.username, password) if self._target.username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: a line is read faster than it could be left to a thread."""
        return self.get_credentials()


def credentials(target: RedisTarget) -> PasswordFile | None:
    """What a client is given; None where nobody has to say who he is."""
    return PasswordFile(target) if target.password_file else None
