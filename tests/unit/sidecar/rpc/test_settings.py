"""Settings of the listener that do not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.config import FrontKind, SidecarConfig

CERTIFICATE, KEY = Path("a.crt"), Path("a.key")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"socket_mode": "rw"}, "--socket-mode 'rw': expected an octal mode"),
        ({"socket_mode": "0660"}, "--socket-mode and --socket-group are for --listen unix:/path"),
        ({"socket_group": "users"}, "--socket-mode and --socket-group are for --listen unix:/path"),
        ({"tls_cert": CERTIFICATE}, "TLS needs both: --tls-cert FILE and --tls-key FILE"),
        ({"tls_key": KEY}, "TLS needs both: --tls-cert FILE and --tls-key FILE"),
        ({"tls_client_ca": CERTIFICATE}, "--tls-client-ca needs --tls-cert FILE and --tls-key FILE"),
        (
            {"tls_cert": CERTIFICATE, "tls_key": KEY, "front": FrontKind.FAST},
            "--tls-cert: the fast front has no TLS; add --front aio",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], says: str) -> None:
    """Nothing starts; the message says what would be right."""
    given = {"front": FrontKind.AIO, **settings}
    config = SidecarConfig(state_dir=Path("state"), snapshot_file=Path("tenants.yaml"), **given)
    with pytest.raises(ConfigurationError) as caught:
        config.checked()
    assert str(caught.value).startswith(says)


def test_a_socket_takes_mode_and_group() -> None:
    """And TLS takes the reference front."""
    socket = {"listen": "unix:/run/s", "socket_mode": "0660", "socket_group": "app"}
    tls = {"front": FrontKind.AIO, "tls_cert": CERTIFICATE, "tls_key": KEY}
    config = SidecarConfig(state_dir=Path("state"), snapshot_file=Path("t"), **socket, **tls)  # type: ignore[arg-type] # each has its own
    assert config.checked() is config
