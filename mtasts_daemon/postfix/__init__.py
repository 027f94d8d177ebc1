"""Postfix's lookup protocols, policy text and settings."""
