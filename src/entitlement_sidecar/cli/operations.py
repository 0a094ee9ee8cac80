"""Which command calls which REST operation: everything that REST can do, a person can type.

A new operation without a command fails `tests/architecture/test_cli_parity.py`, which runs these against a
server that says what it was asked.
"""

from __future__ import annotations

OPERATIONS: dict[str, str] = {
    "audit-get-entries": "audit list",
    "audit-verify": "audit verify",
    "break-glass-break-glass": "break-glass open FEATURE --all --reason WHY",
    "break-glass-end-break-glass": "break-glass end ENTRY",
    "break-glass-list-break-glass": "break-glass list",
    "catalogue-diff-catalogue": "catalogue diff FILE",
    "catalogue-export-catalogue": "catalogue export",
    "catalogue-get-catalogue": "catalogue show",
    "catalogue-get-features": "catalogue features",
    "catalogue-get-plans": "plans list",
    "catalogue-migrate-tenants": "plans migrate-tenants starter@1 starter@2",
    "catalogue-post-catalogue": "catalogue apply FILE",
    "credits-get-credit-grant": "credits show TENANT GRANT",
    "credits-grant-credits": "credits grant TENANT FEATURE AMOUNT --reason WHY",
    "credits-list-credits": "credits list TENANT",
    "credits-void-credit-grant": "credits void TENANT GRANT",
    "organizations-list-entitlements": "organizations show TENANT",
    "organizations-list-organizations": "organizations list",
    "overrides-create-override": "overrides create TENANT FEATURE --effect deny --reason WHY",
    "overrides-get-override": "overrides show TENANT OVERRIDE",
    "overrides-list-overrides": "overrides list TENANT",
    "overrides-revoke-override": "overrides revoke TENANT OVERRIDE",
    "quotas-check": "quotas check TENANT FEATURE",
    "seats-assign-seat": "seats assign TENANT FEATURE SUBJECT",
    "seats-list-seats": "seats list TENANT FEATURE",
    "seats-release-seat": "seats release TENANT FEATURE SUBJECT",
    "snapshots-get-snapshot": "snapshots show TENANT",
    "snapshots-republish": "snapshots republish TENANT",
    "snapshots-republish-all": "snapshots republish --all",
    "snapshots-verify": "snapshots verify",
    "subscriptions-activate-subscription": "subscriptions activate TENANT",
    "subscriptions-cancel-subscription": "subscriptions cancel TENANT",
    "subscriptions-get-subscription": "subscriptions show TENANT",
    "subscriptions-list-history": "subscriptions history TENANT",
    "subscriptions-list-subscriptions": "subscriptions list TENANT",
    "subscriptions-mark-subscription-past-due": "subscriptions past-due TENANT",
    "subscriptions-post-subscription": "subscriptions create TENANT --plan PLAN",
    "subscriptions-renew-subscription": "subscriptions renew TENANT",
    "subscriptions-resume-subscription": "subscriptions resume TENANT",
    "subscriptions-suspend-subscription": "subscriptions suspend TENANT",
    "tokens-get-tokens": "tokens list",
    "tokens-post-revoke": "tokens revoke TOKEN",
    "tokens-post-token": "tokens create NAME --role viewer",
    "usage-get-events": "usage events TENANT",
    "usage-get-summary": "usage summary TENANT",
}
"""By operation id, with the arguments that the command cannot be without."""
