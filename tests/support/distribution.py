"""How tests are shared out to workers: one by one, but for files whose tests share processes."""

from __future__ import annotations

from typing import ClassVar

from xdist.scheduler import LoadScopeScheduling


class OneByOne(LoadScopeScheduling):
    """Gives each worker the next test; a file whose fixtures take long to start goes to one worker whole."""

    WHOLE: ClassVar[tuple[str, ...]] = (
        "tests/e2e/test_failure_matrix",
        "tests/e2e/test_lease_hammer",
        "tests/e2e/test_tampered_redis",
        "tests/integration/deploy/test_image",
    )
    """What such files' paths begin with."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, _ = nodeid.partition("::")
        return path if nodeid.startswith(self.WHOLE) else nodeid
