"""Cores of the machine, shared out between processes that work side by side."""

import os


def take_share(worker: int, workers: int) -> None:
    """Keep this thread, and the processes that it starts, to the share of worker 0, 1, 2, ...

    JAX starts a thread for each core that it may use; several JAX processes on the same cores
    would spend their time waiting for each other. Does nothing where the system cannot do it.
    """
    if workers > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[worker % len(cores) :: workers])
