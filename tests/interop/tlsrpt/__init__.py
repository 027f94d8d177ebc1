"""TLS reports end to end: events of a real Postfix, and the reports that arrive."""
