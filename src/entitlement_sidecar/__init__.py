"""Entitlement Sidecar: entitlement checks from memory, usage that is never lost."""

__version__ = "0.1.0"
