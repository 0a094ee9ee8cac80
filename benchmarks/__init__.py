"""Measures the sidecar against a bare `grpc.aio` echo in the same run: `python -m benchmarks`.

`run` is the plan of a run; `workloads` says what is asked, `load` asks it, `servers` start what is asked,
`report` prints it. README.md explains the method and keeps the last table.
"""
