"""The Debian package on a booted Debian 13: installed, used, upgraded, damaged, removed.

``make test-system`` runs it, as root. Each test continues from the state of the one before.
"""
