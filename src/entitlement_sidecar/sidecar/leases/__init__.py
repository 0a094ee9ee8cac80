"""The right to admit usage (DESIGN 7). `authority` is the port; each consume goes to the root for now."""
