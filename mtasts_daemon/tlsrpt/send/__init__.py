"""Send TLS reports (RFC 8460 section 5)."""
