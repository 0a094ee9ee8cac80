"""How much was used: the root authority that admits it, and the ledger that adds it up (DESIGN 7, 8).

`authority` is the only place that decides whether a limit still has room. `ledger` keeps events, `queries`
reads what they add up to.
"""
