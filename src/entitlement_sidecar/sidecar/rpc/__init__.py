"""How calls reach the decisions: fronts move bytes, servicers translate them.

`front` says what a front is: it serves a table of `Method`s (a path, and a function from request bytes to
response bytes) and knows nothing of their meaning. `listener` understands addresses. `aio_front` is the
reference, over `grpc.aio`; `fast_front` serves the same table with HTTP/2 in native code. `entitlements` and
`usage` are the servicers: parse, call, map.

Who may call is said beside them. `socket_access` and `tls` are about the connection, `callers` is the door
that knows callers by what a call shows, `permit` says about which tenants one of them may ask, and
`caller_sockets` opens a front for each caller that has a socket. `watched_files` reads again what changes.
"""
