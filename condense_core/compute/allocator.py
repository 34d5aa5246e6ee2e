"""How the C library hands out memory: on a CPU it can cost as much as the arithmetic.

glibc gives every large block back to the kernel as soon as it is freed, and the kernel
clears each page of the next one before its first use. A training step allocates and
frees every activation, so that it pays for this again and again: with a ConvNet of
width 32 on 28-pixel images the page faults took nearly half of a step
(docs/performance.md). CUDA has PyTorch's caching allocator for the same reason.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER = -1
_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next allocations.

    A setting of the whole process, so that programs call it, never libraries: the
    ``condense`` command, Flower's apps and the benchmarks do. Resident memory then
    stays at its peak (about a third above that of the default).

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD))
    return all(mallopt(name, value) == 1 for name, value in settings)
