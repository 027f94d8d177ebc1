"""Alerts to the operator: by mail and by webhook."""
