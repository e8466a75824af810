"""Keeps freed memory in the process, because page faults take up to a third of the CPU time of training."""

import ctypes
import logging
import platform

log = logging.getLogger(__name__)

# malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation; return False, and log it, if it cannot.

    By default, glibc maps the memory of every large tensor and unmaps it again, and the page faults take up to a third
    of the CPU time of a training step. Call this function before torch allocates large tensors, because it does not
    affect memory that is already mapped.
    """
    if platform.libc_ver()[0] != "glibc":
        log.info("the memory allocator is not glibc's; its settings are unchanged")
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    if not all(mallopt(name, value) for name, value in settings):
        log.warning("memory allocator: glibc refused a setting")
        return False
    return True
