"""The settings of the interpreter, the C library and the scheduler."""

import json
import os
import platform
import subprocess
import sys

from mtasts_daemon.daemon.tuning import tune_malloc


def test_malloc_accepts_the_settings_of_the_gnu_c_library() -> None:
    assert tune_malloc() is (platform.libc_ver()[0] == "glibc")


def test_receiving_process_leaves_one_core_to_lookups() -> None:
    program = (
        "import json, os, threading; from mtasts_daemon.daemon.tuning import give_way_to_lookups;"
        "give_way_to_lookups(); found = [];"
        "thread = threading.Thread(target=lambda: found.append(sorted(os.sched_getaffinity(0))));"
        "thread.start(); thread.join(); print(json.dumps([os.nice(0), found[0]]))"
    )
    cores = sorted(os.sched_getaffinity(0))
    printed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(printed) == [min(os.nice(0) + 10, 19), cores[1:] or cores]
