"""Benchmarks of the daemon, compared with the fastest possible server on the same event loop.

    python -m tests.bench                      # all benchmarks, some minutes
    python -m tests.bench warm pipelined       # some benchmarks
    python -m tests.bench warm --server socketmap:inet:127.0.0.1:8642:QUERY

Server and load have a core each if there are two. Daemon and reference are measured in turns in the same run, so that a
busy machine affects both equally; rates and CPU times are medians over the turns.
"""
