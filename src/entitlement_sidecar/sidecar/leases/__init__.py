"""The right to admit usage (DESIGN 7). `authority` is the port, `book` admits from leases, `grantor` grants.

`book` and `slot` answer in memory; `asking` gets tokens, `ending` gives them back; `modes` and `views` stand
in front of the root for what is not leased, and for the last word.
"""
