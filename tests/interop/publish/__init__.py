"""Publishing with real parts: Knot DNS with RFC 2136, Unbound, nginx, Caddy, Apache, and Postfix on both sides."""
