"""Twins that ship, for this project's tests and for those of its users.

`FakeClock` stands for time, `builders` make catalogues, snapshots and requests in a line.
"""

from entitlement_sidecar.testing.clock import FakeClock

__all__ = ["FakeClock"]
