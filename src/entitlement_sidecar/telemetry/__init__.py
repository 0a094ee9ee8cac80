"""What operators see: `metrics` declares every metric once, `logging` writes one line per event."""
