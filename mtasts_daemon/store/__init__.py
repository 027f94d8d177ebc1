"""Store policies in SQLite."""
