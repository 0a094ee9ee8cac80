"""What this sidecar holds of each tenant, and how fresh it is (DESIGN 6).

`ports` says where snapshots come from, `store` keeps them in memory, `freshness` knows as of when they
are true, `loader` fills the store on a miss, `follower` keeps it current from the feed,
`revalidation` has what is held confirmed, many versions at once, and `backlog` holds what has to be read
again for that.
"""
