"""DANE against the real thing: signed zones, a validating resolver, and Postfix.

``signing`` makes the zones, ``nameservers`` runs Knot DNS and Unbound with them on a machine of their own,
``signed_world`` has the mail exchangers and policies, and ``scenarios`` are the states that a domain can be in.
``test_signed_dns`` holds the daemon's resolver and judgement to them, ``test_levels`` what Postfix makes of the level,
and ``test_delivery`` both: the daemon that is asked, and the mail.
"""
