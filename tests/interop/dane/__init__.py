"""DANE with real parts: signed zones, a validating resolver, and Postfix.

``signing`` makes the zones, ``nameservers`` runs Knot DNS and Unbound with them on a separate machine,
``signed_world`` has the mail exchangers and policies, and ``scenarios`` are the states of a domain.
``test_signed_dns`` checks the daemon's resolver and verdicts, ``test_levels`` Postfix at each level, and
``test_delivery`` both together.
"""
