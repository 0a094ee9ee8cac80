"""Drivers: the only place of the data plane that knows Redis, SQLite, gRPC clients and files."""
