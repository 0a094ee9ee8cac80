"""How an application shows a sidecar who it is, and knows that it is the sidecar."""

from __future__ import annotations

from pathlib import Path

import grpc
import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.wire.token_file import read_token


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Files, read when a client is made.

    Attributes:
        token_file: One line with the caller's token.
        ca_file: PEM of the authorities that may sign the sidecar's certificate; None: no TLS.
        certificate_file: PEM of the caller's own certificate chain, for mTLS.
        key_file: Its key.
    """

    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What each call carries.

        Raises:
            ConfigurationError: The token cannot be read; names the file.
        """
        if self.token_file is None:
            return None
        return (("authorization", f"Bearer {read_token(self.token_file, 'token file')}"),)

    def channel(self) -> grpc.ChannelCredentials | None:
        """What a connection is made with; None: no TLS.

        Raises:
            ConfigurationError: A file cannot be read, or one is missing that belongs to another.
        """
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigurationError(
                "a certificate needs its key, and a key its certificate: give both files"
            )
        if self.ca_file is None and self.certificate_file is not None:
            raise ConfigurationError("a certificate is shown over TLS only: give the file of authorities too")
        if self.ca_file is None:
            return None
        return grpc.ssl_channel_credentials(
            _content(self.ca_file), _maybe(self.key_file), _maybe(self.certificate_file)
        )


NOTHING = Credentials()
"""For a sidecar that asks nobody who they are."""


def _maybe(path: Path | None) -> bytes | None:
    return None if path is None else _content(path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
