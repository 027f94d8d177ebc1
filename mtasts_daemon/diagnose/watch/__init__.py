"""Watch domains: check them regularly, keep what changed, and alert."""
