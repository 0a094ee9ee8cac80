"""Accepted means kept (DESIGN 8): `report` judges events, `outbox` keeps them, `shipper` sends them.

Without a plan store nothing is kept: `unshipped` lets events go once retries of them are over.
"""
