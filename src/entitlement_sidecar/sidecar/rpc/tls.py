"""TLS of a front: which certificate it shows, whose client certificates it accepts.

The files may be replaced while calls come in. A new certificate is shown from the next handshake on, and
connections that are open stay. What is half written, or does not fit together, changes nothing: the old pair
is served on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.telemetry import metrics


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: the chain that is shown, its key, and who signs those of clients (None: none is asked)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> list[Path]:
        """Those that are there to be watched."""
        return [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]


class ServerTls:
    """What handshakes use now.

    Raises:
        ConfigurationError: From the start the files do not fit together; names the file.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        # The handshake threads of gRPC take from here; a newer one takes the place of one not taken yet.
        self._next: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        self._latest = self._read()

    @property
    def asks(self) -> bool:
        """Whether clients have to show a certificate."""
        return self.files.client_ca is not None

    async def load(self) -> None:
        """Reads the files anew, for all handshakes from now on.

        Raises:
            ConfigurationError: They do not fit together; what was there stays in use.
        """
        self._latest = self._read()
        self._next.append(self._latest)

    def credentials(self) -> grpc.ServerCredentials:
        """For the port of a server."""
        self._next.clear()
        # The types do not say that "nothing newer" is None.
        newer = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._newer)
        return grpc.dynamic_ssl_server_credentials(self._latest, newer, self.asks)

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            return self._next.popleft()
        except IndexError:
            return None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        chain, key = _bytes(self.files.certificate, "--tls-cert"), _bytes(self.files.key, "--tls-key")
        shown = _certificates(chain, self.files.certificate, "--tls-cert")[0]
        self._check_pair(shown, key)
        authorities = None
        if self.files.client_ca is not None:
            authorities = _bytes(self.files.client_ca, "--tls-client-ca")
            _certificates(authorities, self.files.client_ca, "--tls-client-ca")
        metrics.tls_certificate_expires.set(shown.not_valid_after_utc.timestamp())
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    def _check_pair(self, shown: x509.Certificate, key: bytes) -> None:
        if _key_of(key, self.files.key) != _spki(shown):
            raise ConfigurationError(
                f"--tls-key {self.files.key}: expected the key of the first certificate in "
                f"{self.files.certificate}"
            )
        if shown.not_valid_after_utc <= datetime.now(UTC):
            ended = shown.not_valid_after_utc.isoformat()
            raise ConfigurationError(
                f"--tls-cert {self.files.certificate}: the certificate ended at {ended}; renew it"
            )


def _bytes(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting} {path}: {error.strerror}") from error


def _certificates(content: bytes, path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigurationError(f"{setting} {path}: expected certificates in PEM") from error


def _key_of(content: bytes, path: Path) -> bytes:
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"--tls-key {path}: expected a private key in PEM, without a passphrase"
        ) from error
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
