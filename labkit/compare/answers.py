"""What each notebook leaves behind for the capstone: a few arrays in one small file, no pickle;
and what comes with labkit: reference results, and tables and weights of runs too long
for a lab."""

import datetime
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
from jaxtyping import PyTree

from labkit import data, files, live, session

LIMIT = 1_000_000  # bytes of one file; a few hundred KB is what the capstone needs


def folder() -> Path:
    """The reader's own folder of results: LABKIT_RESULTS, or a data folder of the user."""
    return files.folder("LABKIT_RESULTS", platformdirs.user_data_dir)


def save(name: str, /, **arrays) -> None:
    """Save named arrays (metrics, curves, samples, times) as `name`-`dataset`.npz, all or nothing.

    Device, versions, dataset and date are saved with them. If the folder cannot be written, a line
    says so. Raises ValueError if the arrays hold objects or take more than 1 MB in all.
    """
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    objects = [key for key, value in arrays.items() if value.dtype.hasobject]
    size = sum(value.nbytes for value in arrays.values())
    if objects or size > LIMIT:
        raise ValueError(
            f"results {name!r}: {objects} hold Python objects; save arrays of numbers or text."
            if objects
            else f"results {name!r} take {size} bytes, more than {LIMIT}; save fewer samples."
        )
    about = _about()
    path = folder() / f"{name}-{about['dataset']}.npz"
    with files.optional(f"the results of {name}", "LABKIT_RESULTS"):
        with files.whole(path) as file:
            np.savez_compressed(file, about=json.dumps(about), **arrays)
        print(f"saved {len(arrays)} results of {name}")


class Results(NamedTuple):
    """What one model answered. `values`: a number is an array (seeds,), one entry for each run.

    `about` holds dataset, device, versions and date; `yours` tells your own run from reference.
    """

    values: dict[str, np.ndarray]
    about: dict
    yours: bool

    @property
    def source(self) -> str:
        """Whose run it was, in a word or two for a plot."""
        return "yours" if self.yours else "reference"


def collect(names: Iterable[str]) -> dict[str, Results]:
    """What the notebooks saved under these names, the reference in place of what is missing.

    All are about one dataset, so that they answer about the same images: on the small digits,
    for which there is no reference, your own are taken only if all of them are there. Prints which
    are whose. Raises ValueError for a name without a reference.
    """
    names, dataset = list(names), data.course_dataset()
    own = {name: _read(folder() / f"{name}-{dataset}.npz") for name in names}
    if dataset != "mnist" and not all(own.values()):
        print(f"there is no reference for {dataset}: all that follows is the reference for MNIST")
        own = dict.fromkeys(names)
    collected = {}
    for name in names:
        values, about = own[name] or _reference(name)
        collected[name] = Results(values, about, yours=own[name] is not None)
        where = f"{about['dataset']}, {about['device']}, {about['date']}"
        runs = len(values["parameters"])
        print(f"{name:14} {collected[name].source:10} {where}, {runs} run{'s' * (runs > 1)}")
    return collected


def _reference(name: str) -> tuple[dict[str, np.ndarray], dict]:
    place = resources.files(__package__).joinpath("reference")
    saved = _read(place.joinpath(f"{name}.npz"))
    if saved is None:
        names = sorted(file.name.removesuffix(".npz") for file in place.iterdir())
        raise ValueError(f"no reference results {name!r}; labkit has {names}")
    return saved


def _read(path) -> tuple[dict[str, np.ndarray], dict] | None:
    """The arrays of one file, numbers as arrays (1,), and what it says about itself."""
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            values = {key: np.atleast_1d(file[key]) for key in file.files}
        return values, json.loads(str(values.pop("about")[0]))
    except Exception:  # whatever a damaged file may cause
        print(f"labkit: {path.name} is damaged and is left out; run its notebook again")
        return None


def measured(
    name: str, measure: Callable[[], dict], again: bool = False, *, long: bool = False
) -> dict:
    """What `measure()` gives: numbers and arrays in a dictionary, or in dictionaries in it.

    Runs that a lab need not wait for are recorded on MNIST, as the notebook has them, and this
    returns the record and says so. With `again`, or on another dataset, `measure` runs.
    LABKIT_RETRAIN does so everywhere, and keeps what came out in the reader's own folder, from
    where `tools.run --retrain` takes it; but a `long` run, of hours, is for `again` alone to start.
    Raises ValueError if there is a Python object among it.
    """
    values, began = _recorded(name, again, long), time.perf_counter()
    if values is None:
        values = dict(_flat(measure()))
        _record(name, time.perf_counter() - began, values)
    return _nested(values)


def trained(name: str, train: Callable[[], PyTree], like: PyTree, again: bool = False) -> PyTree:
    """What `train()` returns, a model and more, or the record of it (see `measured`), in which
    matrices have 8 bits and all is float32. `like` has the same structure."""
    values, began = _recorded(name, again), time.perf_counter()
    if values is None:
        model = train()
        leaves = jax.tree.leaves(eqx.filter(model, eqx.is_array))
        packed = live.pack({str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)})
        _record(name, time.perf_counter() - began, {"packed": np.frombuffer(packed, np.uint8)})
        return model
    arrays, rest = eqx.partition(like, eqx.is_array)
    stored = live.unpack(values["packed"].tobytes())
    leaves = [jnp.float32(stored[str(i)]) for i in range(len(stored))]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), leaves), rest)


def _recorded(name: str, again: bool, long: bool = False) -> dict[str, np.ndarray] | None:
    file = resources.files(__package__).joinpath("recorded", f"{name}.npz")
    fresh = files.setting("LABKIT_RETRAIN") or data.course_dataset() != "mnist"
    if again or (fresh and not long) or not file.is_file():
        return None
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
        values = {key: saved[key] for key in saved.files}
    about = json.loads(str(values.pop("about")))
    took = f", which took {about['seconds']} s" if about["seconds"] else ""
    how = "" if long else f"; RETRAIN = True runs it here{took}"
    print("recorded on {dataset}, {device}, {date}".format(**about) + how)
    return values


def _record(name: str, seconds: float, values: dict[str, np.ndarray]) -> None:
    if files.setting("LABKIT_RETRAIN") and data.course_dataset() == "mnist":
        about = json.dumps(_about() | {"seconds": round(seconds)})
        with files.whole(folder() / f"{name}.npz") as file:
            np.savez_compressed(file, about=about, **values)


def _flat(tree: dict, above: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}/")
            continue
        value = np.asarray(value)
        if value.dtype.hasobject or "/" in str(key):
            raise ValueError(f"{above}{key}: give an array of numbers or text, and no / in a name.")
        yield f"{above}{key}", value


def _nested(values: dict[str, np.ndarray]) -> dict:
    tree: dict = {}
    for path, value in values.items():
        *above, name = path.split("/")
        inner = tree
        for key in above:
            inner = inner.setdefault(key, {})
        inner[name] = value if value.ndim else value.item()
    return tree


def recorded_model(name: str, like):
    """The weights that belong to a recorded table, in a model of the same shape as `like`."""
    file = resources.files(__package__).joinpath("recorded", f"{name}.eqx")
    return eqx.tree_deserialise_leaves(io.BytesIO(file.read_bytes()), like)


def _about() -> dict:
    return {
        "dataset": data.course_dataset(),
        "device": session.device(),
        "versions": session.versions(),
        "date": datetime.date.today().isoformat(),
    }
