"""TLS reports that others send about the own domains: intake, authentication, storage, analysis."""
