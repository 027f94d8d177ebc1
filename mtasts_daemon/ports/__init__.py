"""The world: effects behind the protocols of ``ports.api``; foreign errors become ours here."""
