"""The settings of the C library."""

import platform

from mtasts_daemon.daemon.tuning import tune_malloc


def test_malloc_accepts_the_settings_of_the_gnu_c_library() -> None:
    assert tune_malloc() is (platform.libc_ver()[0] == "glibc")
