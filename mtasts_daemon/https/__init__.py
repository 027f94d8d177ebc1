"""HTTPS to untrusted hosts."""
