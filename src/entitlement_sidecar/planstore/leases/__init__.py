"""Blocks: quota that the database delegates to Redis, from which sidecars are granted leases (DESIGN 7).

A block is an account of the root, like a sidecar's lease, whose holder is one run of one Redis server. The
scripts beside this file keep it there, `redis_blocks` calls them, `blocks` moves quota between a block and
the root, and `worker` decides when.

    wanted ──▶ open ──▶ grow ⇄ shrink ──▶ closing ──▶ closed
                 └──────── Redis lost, or another run ───▲ forfeited: spent, until its holders settle

Growing is written to the database first and to Redis after; giving up is done in Redis first and written to
the database after. So at every instant the database holds at least as much for a block as the block can
grant.
"""
