"""What the tests of all notebooks' exercises share, and a core for each of several workers."""

import os

import jax
import pytest
from threadpoolctl import threadpool_limits

from tools.run import take_share


def pytest_configure():
    """With pytest-xdist (`-n 2`), each worker and its notebooks' kernels keep to their cores."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        take_share(int(worker.removeprefix("gw")), workers)
        if hasattr(os, "sched_getaffinity"):  # NumPy has started its threads already
            threadpool_limits(len(os.sched_getaffinity(0)))


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """What several tests compile is compiled once: each call of `fit` compiles its step anew."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


@pytest.fixture
def judge(capsys):
    """judge(exercise, answer, words): ✓ where `words` is None, else ✗ with these words."""

    def judge(exercise, answer, words):
        exercise(answer)
        out = capsys.readouterr().out
        if words is None:
            assert out.startswith("✓"), out
        else:
            assert out.startswith("✗") and words in out, out

    return judge
