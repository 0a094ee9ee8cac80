"""The bearer token: one line in a file, so that it is in no command line and no environment."""

from __future__ import annotations

from pathlib import Path

from entitlement_sidecar.domain.errors import ConfigurationError


def read_token(path: Path, setting: str) -> str:
    """The token of a file.

    Raises:
        ConfigurationError: The file cannot be read, or holds what cannot be a token; names the setting and
            the file, and repeats nothing of what the file holds.
    """
    try:
        token = path.read_text("utf-8").strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise ConfigurationError(f"{setting} {path}: {error.strerror}") from error
    # What is sent in a header has no spaces and no line breaks.
    if not (token.isascii() and token.isprintable() and token and " " not in token):
        raise ConfigurationError(f"{setting} {path}: expected one line with a token")
    return token
