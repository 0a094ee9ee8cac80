"""The right to admit usage (DESIGN 7). `authority` is the port; `book` admits from leases, `grantor` grants them.

    decisions ──▶ book ──▶ slot ──▶ lease          in memory
                   ├─▶ asking ──▶ grantor           more tokens: the block in Redis, the root
                   ├─▶ ending ──▶ grantor           given back, settled for
                   └─▶ modes ──▶ views ──▶ root     what is not leased, and the last word
"""
