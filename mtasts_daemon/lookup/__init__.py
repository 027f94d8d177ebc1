"""Answer the lookups of Postfix: server, caches, refresher."""
