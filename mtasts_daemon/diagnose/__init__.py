"""Explanations for people: why a domain gets its answer."""
