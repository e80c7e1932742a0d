"""The threads that projections share.

Kernels release the GIL and are handed pieces of their work by one pool. Results never depend on the number of threads, and any
number of threads may render at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

_CHUNKS_PER_THREAD = 8  # rays differ in length (masks, empty corners): smaller pieces even out the load


def threads() -> int:
    """Threads that a projection uses: RAYLIGN_THREADS, or the processors this process may run on."""
    wanted = os.environ.get("RAYLIGN_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=4)
def pool(size: int) -> ThreadPoolExecutor:
    """The thread pool that kernels share; its tasks never wait for one another, so nesting cannot deadlock."""
    return ThreadPoolExecutor(size, thread_name_prefix="raylign")


def run_chunks(work: Callable[[int, int], object], total: int, smallest: int = 512) -> None:
    """Calls ``work(first, last)`` over pieces of ``range(total)`` on all threads and waits."""
    count = threads()
    pieces = min(count * _CHUNKS_PER_THREAD, total // smallest)
    if count == 1 or pieces <= 1:
        work(0, total)
        return
    edges = [total * i // pieces for i in range(pieces + 1)]
    for future in [pool(count).submit(work, a, b) for a, b in pairwise(edges)]:
        future.result()
