"""TLS reports: results from Postfix and the reports sent about them; reports of others about own domains (RFC 8460)."""
