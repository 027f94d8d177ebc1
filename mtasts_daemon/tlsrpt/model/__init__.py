"""TLSRPT formats and rules as pure functions over frozen values (RFC 8460)."""
