"""Lua scripts, as the plan store has Redis run them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import redis

from entitlement_sidecar.planstore.snapshots.redis_client import Cluster


class Script:
    """A script, sent in full only to a server that does not know it yet."""

    def __init__(self, client: redis.Redis | Cluster, path: Path) -> None:
        self._client = client
        self._text = path.read_text()
        # Redis names scripts so.
        self._digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
        """Runs it, and returns what it answers."""
        given = cast("Sequence[str]", (*keys, *args))
        try:
            return self._client.evalsha(self._digest, len(keys), *given)
        except redis.exceptions.NoScriptError:
            return self._client.eval(self._text, len(keys), *given)

    def queue(
        self, pipeline: redis.client.Pipeline, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> None:
        """Adds a call to a pipeline; the server has to know the script."""
        pipeline.evalsha(self._digest, len(keys), *cast("Sequence[str]", (*keys, *args)))
