"""The operator's HTTP interface: API, status page, metrics."""
