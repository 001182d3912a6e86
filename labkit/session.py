"""The first cell of each notebook: which device, which versions, which data, how long it takes."""

import importlib.metadata
import os
import platform
import tomllib
from importlib import resources

import jax

from labkit import data, files, plot

VERSIONS = ("jax", "equinox", "optax", "numpy")


def device() -> str:
    """What JAX computes on, in words: "2-core CPU", "NVIDIA H200 GPU", "8 × TPU v5"."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"{cores}-core CPU"
    kind = devices[0].device_kind
    if devices[0].platform == "gpu" and "gpu" not in kind.lower():
        kind += " GPU"
    return kind if len(devices) == 1 else f"{len(devices)} × {kind}"


def versions() -> dict[str, str]:
    """The versions that a result depends on, Python's included."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in VERSIONS
    }


def start(notebook: str) -> None:
    """Prepare a notebook; print device, versions, data and the time that *Run all* takes; show
    the figure that the notebook builds up to.

    `notebook` is its file name without ending, as in `labkit/times.toml`. JAX's compilation cache
    goes to a folder of the user's (LABKIT_CACHE), so a second run skips most compiling.
    """
    if not jax.config.jax_compilation_cache_dir:
        with files.optional("compiled functions", "LABKIT_CACHE"):
            folder = files.cache() / "jax"
            with files.whole(folder / "writable") as file:
                file.write(bytes(4096))
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # A GPU's shortcut for float32 products (TF32) would blur identities that the book checks.
    jax.config.update("jax_default_matmul_precision", "float32")
    plot.use_style()
    source = data.load("mnist").source
    print(f"device    {device()}")
    print("versions  " + ", ".join(f"{name} {v}" for name, v in versions().items()))
    print(f"dataset   {source}")
    print(f"Run all   {expected_time(notebook)}")
    picture = resources.files("labkit").joinpath("pictures", f"{notebook}.png")
    if picture.is_file():
        plot.show_png(picture.read_bytes(), alt="What you will have made by the end")


def expected_time(notebook: str) -> str:
    """How long *Run all* took for us, on this kind of device if that was measured."""
    times = tomllib.loads(resources.files("labkit").joinpath("times.toml").read_text("utf-8"))
    if notebook not in times:
        return "was not measured yet"
    kind = "gpu" if jax.default_backend() == "gpu" else "cpu"
    measured = times[notebook].get(kind, times[notebook]["cpu"])
    return f"took {measured['seconds']} s on {measured['device']}"
