# SPDX-License-Identifier: Apache-2.0
"""A context whose threads are those of the OpenMP runtime that torch has loaded."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

from ._library import PACKAGE, ffi
from .context import Context

_DECLARATIONS = """
struct openmp {
    void (*parallel)(void (*body)(void *), void *argument, unsigned threads, unsigned flags);
    int (*thread)(void);
    int workers;
};
void GOMP_parallel(void (*body)(void *), void *argument, unsigned threads, unsigned flags);
int omp_get_thread_num(void);
void moeblock_openmp_run(void *user, int64_t count, moeblock_task task, void *argument);
"""


def _runtime() -> str | None:
    """The file of the OpenMP runtime in this process, when it is one with the GNU interface."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = re.search(r"/\S*lib(?:gomp|iomp5|omp)[-.\w]*\.so\S*", maps)
    return found.group() if found else None


@functools.cache
def torch_context(workers: int) -> Context:
    """A context on torch's threads; on threads of its own where torch has no OpenMP. A forked child has lost them, and
    the runtime does not start others: there the thread that calls does all the work, with the same bits."""
    path = _runtime()
    shim = PACKAGE / "lib" / "libmoeblock-openmp.so"
    if path is None or not shim.exists():
        return Context(workers)
    ffi.cdef(_DECLARATIONS, override=True)
    runtime: Any = ffi.dlopen(path)
    library: Any = ffi.dlopen(str(shim))
    user = ffi.new("struct openmp *", {"workers": workers})
    user.parallel = ffi.addressof(runtime, "GOMP_parallel")
    user.thread = ffi.addressof(runtime, "omp_get_thread_num")
    run = ffi.addressof(library, "moeblock_openmp_run")
    os.register_at_fork(after_in_child=lambda: setattr(user, "workers", 1))
    return Context(parallel=(user, workers, run))
