"""One life of the daemon process: composition, reload, shutdown."""
