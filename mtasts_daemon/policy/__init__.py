"""The rules of RFC 8461 and RFC 7672 as pure functions over frozen values.

Nothing here reads a clock, opens a socket, logs or awaits; the time is an argument.
"""
