"""How much was used: the root authority that admits it, and the ledger that adds it up (DESIGN 7, 8).

`authority` is the only place that decides whether a limit still has room. `ledger` keeps events, each in its
slot (`slots`); `facts` says what they count as now, `totals` what facts add up to. `aggregates` keeps that
while events arrive, `changing` when `terminal` events and `corrections` change facts, and `rebuild` makes it
again. `closing` and `retention` are workers. `queries` and `reports` read.
"""
