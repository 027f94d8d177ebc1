"""TLS reports end to end: real Postfix with TLSRPT tells the daemon, and the reports that arrive say what was sent."""
