"""SMTP to untrusted hosts: connect, EHLO, STARTTLS, and read the certificate chain."""
