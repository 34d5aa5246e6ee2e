"""Freed memory is kept: a repeated allocation costs no new pages."""

import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import resource, sys, torch
from condense_core.compute.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):  # a block may not fit where one of its size was: aligned otherwise
    torch.ones(10_000_000)
before = faults()
for _ in range(5):
    torch.ones(10_000_000)
print(faults() - before)
"""


def _page_faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE, mode],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_repeated_allocation_costs_no_new_pages() -> None:
    # 40 MB are 10,000 pages of 4 KB or 20 of 2 MB, five times.
    assert _page_faults("keep") < 20
    assert _page_faults("default") > 80


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from condense_core.compute.allocator import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert keep_freed_memory() is False
