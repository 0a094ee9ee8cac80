"""The control plane: what is sold, who bought it, and what they used of it.

Read `process`, then `bootstrap`, then `api`. The layers below it, from the top: `snapshots` (what tenants
have, compiled and signed), `usage` (the root authority and the ledger), `subscriptions`, `catalogue`, `db`.
"""
