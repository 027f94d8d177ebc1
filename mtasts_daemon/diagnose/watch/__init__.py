"""Watch domains: check them regularly, record changes, and alert."""
