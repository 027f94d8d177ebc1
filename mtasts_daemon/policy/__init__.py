"""The law: what RFC 8461 and RFC 7672 demand, as pure functions over frozen values.

Nothing here reads a clock, touches a socket, logs, or awaits; the moment is an argument.
"""
