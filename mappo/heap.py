"""Freed memory stays with the process, so that the next step finds it mapped.

glibc gives the end of its heap back to the system whenever some free megabytes lie there, and a training frees and
takes again tensors of that size at every step: it would wait for the system to map the same pages over and over.
"""

import ctypes
import os

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt(3)
_OWN_MAPPING_BYTES = 32 << 20  # larger tensors get memory of their own, which is given back; the most glibc allows
_KEPT_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Let glibc keep up to 256 MiB of freed memory; returns whether it does.

    It does not without glibc, or where MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ or those of GLIBC_TUNABLES are
    set.
    """
    tuned = os.environ.get("GLIBC_TUNABLES", "")
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys() or "_threshold" in tuned:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    sizes = {_MMAP_THRESHOLD: _OWN_MAPPING_BYTES, _TRIM_THRESHOLD: _KEPT_BYTES}
    return mallopt is not None and all(mallopt(name, size) == 1 for name, size in sizes.items())
