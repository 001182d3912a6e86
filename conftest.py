"""For the tests and the notebooks alike: cores, the order of files, time for a busy machine."""

import os
import tomllib
from pathlib import Path

from threadpoolctl import threadpool_limits

from tools.run import take_share

TIMES = tomllib.loads(Path(__file__).with_name("labkit").joinpath("times.toml").read_text("utf-8"))


def pytest_configure():
    """With pytest-xdist (`-n 2`), each worker and its notebooks' kernels keep to their cores."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        take_share(int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        if hasattr(os, "sched_getaffinity"):  # NumPy has started its threads already
            threadpool_limits(len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items):
    """The longest notebooks first, so that no worker is left with one at the end; and patience."""
    seconds = lambda item: TIMES.get(item.path.stem, {}).get("cpu", {}).get("seconds", 0)
    items.sort(key=lambda item: -seconds(item))
    for item in items:
        if hasattr(item, "output_timeout"):  # nbval waits 5 s for what a cell has printed
            item.output_timeout = 120
