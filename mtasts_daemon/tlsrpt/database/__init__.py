"""The database of TLS results and reports."""
