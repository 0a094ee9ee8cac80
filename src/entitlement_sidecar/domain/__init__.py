"""Pure rules: no I/O, no clock reads, no logging, no protobuf.

Start with `evaluate`: it is what the product does. `catalogue` and `snapshot` are what it reads,
`decision` what it answers, `window` when quotas reset, `usage` what a consumption becomes.
"""
