"""Accepted means kept (DESIGN 8): `report` judges events, `outbox` keeps them, `shipper` sends them."""
