"""What operators and services call: REST (FastAPI) and the plan store's gRPC.

Routes and servicers translate: parse, call, map. One request is one transaction, which the route opens and
which is over before the answer leaves. Errors become RFC 9457 problems in `problems`, gRPC status in
`wire.status`. Start with `app`.
"""
