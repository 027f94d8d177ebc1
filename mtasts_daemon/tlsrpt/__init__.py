"""Who tells: TLS results from Postfix, and the daily reports made of them (RFC 8460)."""
