"""What all tests share: what was compiled, and that they can be interrupted."""

import signal

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """What several tests compile is compiled once: each call of `fit` compiles its step anew."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """What is started with `nohup ... &` ignores SIGINT, as do its children; a kernel does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
