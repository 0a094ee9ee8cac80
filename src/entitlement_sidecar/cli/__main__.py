"""`python -m entitlement_sidecar.cli`: the `entitlements` command without its script."""

from entitlement_sidecar.cli.main import main

if __name__ == "__main__":
    main()
