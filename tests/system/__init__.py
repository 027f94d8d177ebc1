"""The Debian package on a booted Debian 13: installed, used, upgraded, damaged, removed.

``make test-system`` runs it, as root. Each test goes on from the state that the one before it left.
"""
