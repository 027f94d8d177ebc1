"""What the configuration names on this host, looked at before it is put in force."""

import ssl

from .loading import Loaded
from .model import Config
from .problems import ConfigProblems, Problem, shown

__all__ = ["usable"]


def usable(loaded: Loaded) -> Config:
    """The configuration, where this process can use the files it names. Raises ``ConfigProblems``."""
    config = loaded.config
    if config.https.ca_file is not None:
        told = _trust_problem(str(config.https.ca_file))
        if told:
            origin = loaded.origins["https.ca_file"]
            mend = "name a file of certificates in PEM form that the daemon's user can read"
            raise ConfigProblems([Problem.at(origin, "https.ca_file", told, mend)])
    return config


def _trust_problem(path: str) -> str:
    name = shown(path, 4096)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return f"{name} holds no certificates, or damaged ones"
    except (OSError, ValueError) as error:
        return f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
    return ""
