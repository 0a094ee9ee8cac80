"""The data plane: one process beside every service.

Read `process`, then `bootstrap`, then `rpc.entitlements`, then `decisions`, then `domain.evaluate`.
"""
