"""The `entitlements` command: one file per group, loaded when it is called.

`main` is where it starts and where errors become messages and exit codes; `output` prints what commands
answer; `rest` talks to the plan store. Commands that talk to a sidecar use `client`, as an application would.
"""
