"""Runs migrations on the connection that `entitlement_sidecar.planstore.db.migrate` hands over.

That connection already has its transaction, so that a migration that fails leaves nothing behind.
"""

from __future__ import annotations

from alembic import context

from entitlement_sidecar.planstore.db import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite alters tables by copying them.
    render_as_batch=True,
)
context.run_migrations()
