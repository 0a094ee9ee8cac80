"""Where sidecars deliver usage: one transaction per batch, one outcome per event (DESIGN 8).

`arrivals` says which events can be read at all; everything else the ledger decides.
"""
