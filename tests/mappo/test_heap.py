"""Freed memory stays mapped: counted by page faults in processes of their own."""

import os
import subprocess
import sys

import pytest

# eight tensors of 4 MB at once, taken and given back 20 times; prints the pages that had to be mapped meanwhile
PROGRAM = """
import resource, torch
{imports}
def step():
    tensors = [torch.ones(1 << 20) for _ in range(8)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(imports: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    command = [sys.executable, "-c", PROGRAM.format(imports=imports)]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def has_glibc() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})


@pytest.mark.skipif(not has_glibc(), reason="another C library")
def test_memory_that_is_freed_is_not_mapped_again_unless_the_user_says_so() -> None:
    kept = faults("import mappo")
    for own in ({"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}):
        assert 10 * kept < faults("import mappo", **own)
