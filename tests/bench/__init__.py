"""How fast the daemon is, against what the loop under it can do at most.

    python -m tests.bench                      # all of it, some minutes
    python -m tests.bench warm pipelined       # parts of it
    python -m tests.bench warm --server socketmap:inet:127.0.0.1:8642:QUERY

Server and load have a core each, where there are two. What is measured against the reference is measured in turns
with it in the same run, so that a busy machine hits both alike; rates and CPU times are medians over the turns.
"""
