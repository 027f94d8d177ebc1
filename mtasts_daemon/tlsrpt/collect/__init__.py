"""Collect TLS results from Postfix."""
