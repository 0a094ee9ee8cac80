"""Every metric of both processes, declared once, with its meaning.

Documentation and tests read this file. Bind label values once: `labels()` costs three times an `inc()`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
"""What `/metrics` shows. A process of its own, not the library's global one: no surprises from imports."""

_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_SLOW = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)

# The sidecar's answers
decisions = Counter(
    "entitlement_decisions",
    "Decisions by reason and degradation.",
    ["reason", "degradation"],
    registry=REGISTRY,
)
memo_lookups = Counter(
    "entitlement_memo_lookups",
    "Checks answered at once, by outcome: hit (a kept answer), or miss (made anew).",
    ["outcome"],
    registry=REGISTRY,
)
calls_failed = Counter(
    "entitlement_calls_failed", "Calls that could not be judged, by gRPC code.", ["code"], registry=REGISTRY
)
calls_in_flight = Gauge(
    "entitlement_calls_in_flight", "Calls accepted and not yet answered.", registry=REGISTRY
)
calls_shed = Counter(
    "entitlement_calls_shed", "Calls refused because too many were in flight.", registry=REGISTRY
)

calls_denied = Counter(
    "entitlement_calls_denied",
    "Calls, checks of batches and usage events that callers were refused, by cause: missing (no "
    "credentials), unknown (nobody has them), tenant (not one of the caller's) or emitter (not its name).",
    ["cause"],
    registry=REGISTRY,
)
files_reloaded = Counter(
    "entitlement_files_reloaded",
    "Changes of the listener's files while it runs, by file (callers or tls) and outcome: done, or refused "
    "(it is wrong and not taken over; the log says what).",
    ["file", "outcome"],
    registry=REGISTRY,
)
tls_certificate_expires = Gauge(
    "entitlement_tls_certificate_expires_seconds",
    "When the certificate in use ends, in seconds since 1970; 0 without TLS.",
    registry=REGISTRY,
)
break_glass_active = Gauge(
    "entitlement_break_glass_active",
    "Emergency measures in force, as this process knows them, by action: open or freeze.",
    ["action"],
    registry=REGISTRY,
)
break_glass_decisions = Counter(
    "entitlement_break_glass_decisions",
    "Decisions made under an emergency measure, by action: allowed by open, or told of a freeze.",
    ["action"],
    registry=REGISTRY,
)

# What is held, and how fresh it is
snapshots_held = Gauge("entitlement_snapshots_held", "Tenants held in memory.", registry=REGISTRY)
snapshot_bytes = Gauge(
    "entitlement_snapshot_bytes", "Bytes of memory that held tenants take.", registry=REGISTRY
)
snapshots_evicted = Counter(
    "entitlement_snapshots_evicted",
    "Tenants that made room for others in memory: where it grows, --max-snapshot-bytes is small.",
    registry=REGISTRY,
)
snapshot_lookups = Counter(
    "entitlement_snapshot_lookups",
    "Where a tenant's snapshot was found: memory, redis, plan_store, disk, unknown or none.",
    ["outcome"],
    registry=REGISTRY,
)
snapshots_refused = Counter(
    "entitlement_snapshots_refused",
    "Snapshots, catalogues and heartbeats refused, by cause: signature, unknown_key, misplaced, garbage or "
    "too_large where verification failed; rolled_back where Redis had less than was seen before.",
    ["cause"],
    registry=REGISTRY,
)
not_understood = Counter(
    "entitlement_not_understood",
    "Grants and features received that say something this version has no name for, by which: grant or "
    "feature. Those features answer by their outage policy: upgrade this sidecar.",
    ["what"],
    registry=REGISTRY,
)
revalidations = Counter(
    "entitlement_revalidations",
    "Versions that the plan store was asked about, many at once, by outcome: confirmed, outdated, unknown or "
    "failed.",
    ["outcome"],
    registry=REGISTRY,
)
feed_events = Counter("entitlement_feed_events", "Feed entries read, by kind.", ["kind"], registry=REGISTRY)
feed_interruptions = Counter(
    "entitlement_feed_interruptions", "Times that the feed was lost.", registry=REGISTRY
)
freshness_seconds = Gauge(
    "entitlement_freshness_seconds",
    "Age of what is held: seconds since it was last confirmed current.",
    registry=REGISTRY,
)
last_known_bytes = Gauge(
    "entitlement_last_known_bytes", "Bytes of last-known snapshots on disk.", registry=REGISTRY
)
last_known_failures = Counter(
    "entitlement_last_known_failures",
    "Writes and reads of last-known snapshots that failed: what is held is served all the same.",
    registry=REGISTRY,
)
source_errors = Counter(
    "entitlement_source_errors",
    "Failed reads from a source: redis, plan_store, disk or file.",
    ["source"],
    registry=REGISTRY,
)
circuit_open = Gauge(
    "entitlement_circuit_open",
    "Whether a source is asked by probes alone, because it failed several times in a row: 1, else 0.",
    ["source"],
    registry=REGISTRY,
)
circuit_opened = Counter(
    "entitlement_circuit_opened",
    "Times that a source stopped being asked after failures in a row.",
    ["source"],
    registry=REGISTRY,
)

# Quota
lease_consumes = Counter(
    "entitlement_lease_consumes",
    "Consumptions by who decided: leased, refused (again), denied or optimistic (by the mode) from memory, "
    "or direct (of leased limits: the authority, one by one).",
    ["by"],
    registry=REGISTRY,
)
lease_requests = Counter(
    "entitlement_lease_requests",
    "Requests for leases, by source (block, root) and outcome: granted, nothing or unavailable.",
    ["source", "outcome"],
    registry=REGISTRY,
)
lease_tokens_returned = Counter(
    "entitlement_lease_tokens_returned", "Tokens of leases that were given back unused.", registry=REGISTRY
)
leases_held = Gauge("entitlement_leases_held", "Leases that this sidecar holds.", registry=REGISTRY)
lease_tokens_held = Gauge(
    "entitlement_lease_tokens_held", "Tokens left in the leases that are held.", registry=REGISTRY
)
authority_calls = Counter(
    "entitlement_authority_calls",
    "Calls to the quota authority, by outcome: admitted, refused, viewed or unavailable.",
    ["outcome"],
    registry=REGISTRY,
)

# Usage at the sidecar
usage_reported = Counter(
    "entitlement_usage_reported", "Usage events reported, by outcome.", ["outcome"], registry=REGISTRY
)
outbox_events = Gauge(
    "entitlement_outbox_events",
    "Events in the outbox by state: queued, or dead (refused for good by the plan store).",
    ["state"],
    registry=REGISTRY,
)
outbox_accepted = Gauge(
    "entitlement_outbox_accepted_events",
    "Events ever committed to this outbox, over all its starts: settled + queued + dead + lost.",
    registry=REGISTRY,
)
outbox_settled = Gauge(
    "entitlement_outbox_settled_events",
    "Events that have left this outbox, over all its starts.",
    registry=REGISTRY,
)
outbox_lost = Gauge(
    "entitlement_outbox_lost_events",
    "Events that the plan store had settled and misses since, over all starts: it was restored from an older "
    "backup, or another database stands behind it; and dead letters that were discarded.",
    registry=REGISTRY,
)
outbox_bytes = Gauge("entitlement_outbox_bytes", "Bytes that the outbox takes on disk.", registry=REGISTRY)
outbox_oldest_seconds = Gauge(
    "entitlement_outbox_oldest_seconds", "Age of the oldest event not yet settled.", registry=REGISTRY
)
outbox_commit_seconds = Histogram(
    "entitlement_outbox_commit_seconds", "Duration of a group commit.", buckets=_FAST, registry=REGISTRY
)
outbox_quarantined = Counter(
    "entitlement_outbox_quarantined", "Corrupt outbox files set aside.", registry=REGISTRY
)
outbox_refused = Counter(
    "entitlement_outbox_refused",
    "Appends and consumptions refused for want of room, by level: billable_only (from 85 % on other usage is "
    "not taken), full (from 95 % on none is) or disk (it is full or failing).",
    ["level"],
    registry=REGISTRY,
)
outbox_fill = Gauge(
    "entitlement_outbox_fill",
    "Part of --max-outbox-bytes that is taken: at 0.7 the log says so, from 0.85 on only billable usage is "
    "taken, from 0.95 on none.",
    registry=REGISTRY,
)
outbox_level = Gauge(
    "entitlement_outbox_level",
    "How full the outbox is: 0 roomy, 1 high, 2 billable usage only, 3 full.",
    registry=REGISTRY,
)
outbox_rolled_up = Counter(
    "entitlement_outbox_rolled_up",
    "Events that were added to a record of their second instead of being a record of their own.",
    registry=REGISTRY,
)
shipped_batches = Counter(
    "entitlement_shipped_batches",
    "Batches sent upstream, by outcome: settled, retried, unauthenticated or bisected.",
    ["outcome"],
    registry=REGISTRY,
)
shipped_events = Counter(
    "entitlement_shipped_events",
    "Events settled by the plan store, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
shipped_last = Gauge(
    "entitlement_shipped_last_seconds",
    "When the plan store last settled usage of this sidecar, in seconds since 1970; 0: not since the start.",
    registry=REGISTRY,
)
shipped_lag_seconds = Histogram(
    "entitlement_shipped_lag_seconds",
    "From the recording of a batch's oldest event until the batch was settled.",
    buckets=_LAG,
    registry=REGISTRY,
)
shipping_stopped = Gauge(
    "entitlement_shipping_stopped",
    "1 while too many dead letters keep usage from being shipped: it waits on disk. Else 0.",
    registry=REGISTRY,
)
usage_unmetered = Counter(
    "entitlement_unmetered",
    "Consumptions allowed without recording their usage because the outbox was full, by metric.",
    ["metric"],
    registry=REGISTRY,
)

# The plan store
published_entries = Counter(
    "entitlement_published_entries",
    "Feed entries published, by transport (database, redis).",
    ["transport"],
    registry=REGISTRY,
)
publish_failures = Counter(
    "entitlement_publish_failures", "Attempts to publish to Redis that failed.", registry=REGISTRY
)
newer_replaced = Counter(
    "entitlement_newer_replaced",
    "Versions in Redis that were newer than the database's own: forged, or the database was restored.",
    registry=REGISTRY,
)
republished = Counter(
    "entitlement_republished",
    "Snapshots written again because Redis was found empty or restored.",
    registry=REGISTRY,
)
refill_left = Gauge(
    "entitlement_refill_left",
    "Snapshots that this plan store has yet to write to a Redis that was found empty or restored.",
    registry=REGISTRY,
)
unpublished_changes = Gauge(
    "entitlement_unpublished_changes", "Committed changes that wait to be published.", registry=REGISTRY
)
bulk_snapshots = Counter(
    "entitlement_bulk_snapshots",
    "Snapshots compiled anew in bulk, by cause: republish or resealing (signed with another key).",
    ["cause"],
    registry=REGISTRY,
)
resealing_left = Gauge(
    "entitlement_resealing_left",
    "Snapshots signed by another key than this plan store's, which signs them again if it started last.",
    registry=REGISTRY,
)
watchers = Gauge("entitlement_watchers", "Sidecars connected to WatchSnapshots.", registry=REGISTRY)
admissions = Counter(
    "entitlement_admissions",
    "Consumes at the root authority, by outcome: admitted, refused, repeated or viewed.",
    ["outcome"],
    registry=REGISTRY,
)
lease_tokens_lost = Counter(
    "entitlement_lease_tokens_lost",
    "Tokens of leases whose holder was not heard of any more: forfeited, reclaimed, accounted for, released.",
    ["outcome"],
    registry=REGISTRY,
)
reservations = Counter(
    "entitlement_reservations",
    "Reservations at the root by outcome: held, refused, settled, settled_late (nothing was held any more), "
    "released or expired.",
    ["outcome"],
    registry=REGISTRY,
)
ingested_events = Counter(
    "entitlement_ingested_events", "Events ingested, by outcome.", ["outcome"], registry=REGISTRY
)
usage_sink_events = Counter(
    "entitlement_usage_sink_events",
    "Accepted events that were written to a sink; after a crash the last ones count again.",
    ["sink"],
    registry=REGISTRY,
)
quarantined_events = Gauge(
    "entitlement_usage_quarantined",
    "Events that are kept in quarantine and do not count, by the rule that keeps them.",
    ["rule"],
    registry=REGISTRY,
)
silent_sources = Gauge(
    "entitlement_usage_sources_silent",
    "Starts of sidecars that accepted usage which never came, and said nothing for 15 minutes.",
    registry=REGISTRY,
)
ingest_seconds = Histogram(
    "entitlement_ingest_seconds", "Duration of the ingest of a batch.", buckets=_SLOW, registry=REGISTRY
)
settled = Counter(
    "entitlement_subscription_changes_settled",
    "Changes of subscriptions that time made and the settler stored.",
    registry=REGISTRY,
)
usage_windows_closed = Counter(
    "entitlement_usage_windows_closed",
    "Usage aggregates that were closed: their window ended, and so did the grace of late events.",
    registry=REGISTRY,
)
usage_events_removed = Counter(
    "entitlement_usage_events_removed",
    "Raw usage events that the catalogue's retention had removed, by classification; aggregates stay.",
    ["classification"],
    registry=REGISTRY,
)
blocks_lost = Counter(
    "entitlement_quota_blocks_lost",
    "Blocks that Redis lost, by cause: another_run of it, missing, another_block, rolled_back, or ahead.",
    ["cause"],
    registry=REGISTRY,
)
strict_features = Gauge(
    "entitlement_quota_strict_features",
    "Features of tenants that grant no leases now: more than a tenth of a limit was lost with its holders.",
    registry=REGISTRY,
)
rpc_requests = Counter(
    "entitlement_rpc_requests",
    "gRPC calls answered, by method and code; watchers count when they end.",
    ["method", "code"],
    registry=REGISTRY,
)
rest_requests = Counter(
    "entitlement_rest_requests",
    "REST requests, by route, method and class of status. Route none: refused before, or no such route.",
    ["route", "method", "status"],
    registry=REGISTRY,
)
authentication_failures = Counter(
    "entitlement_authentication_failures",
    "Calls refused for their token, by cause: missing, unknown, expired, revoked, or throttled: too many of "
    "these from one address.",
    ["cause"],
    registry=REGISTRY,
)
access_refused = Counter(
    "entitlement_access_refused",
    "Calls refused because the token's role or tenants do not allow them, by role.",
    ["role"],
    registry=REGISTRY,
)
