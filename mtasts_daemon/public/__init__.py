"""The HTTP server that strangers may reach: policies, report intake, the check page."""
