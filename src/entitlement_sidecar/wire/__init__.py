"""Everything that crosses a process boundary.

`v1` is generated from `proto/`. `codec` translates it to and from the domain, `signing` and `envelopes`
seal what travels, `redis_keys` names what lies in Redis, `status` maps errors to gRPC, `catalogue_file`
reads what people write.
"""
