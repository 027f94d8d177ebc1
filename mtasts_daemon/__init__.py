"""mtasts-daemon: the MTA-STS, DANE and TLS reporting companion of Postfix."""

__version__ = "0.1.0"
