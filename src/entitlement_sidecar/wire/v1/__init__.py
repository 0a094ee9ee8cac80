"""Generated from `proto/`: the package `entitlement.v1`. Do not edit; run `make generate`."""
