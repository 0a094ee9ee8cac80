"""Between the call and `evaluate`: gets what it needs, and keeps what an allowed CONSUME used.

`check` is the main path. `consumption` makes an allowed CONSUME a usage event before its answer leaves.
"""
