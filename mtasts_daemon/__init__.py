"""mtasts-daemon: the MTA-STS, DANE and TLS reporting companion of Postfix."""

__version__ = "1.0.0"
