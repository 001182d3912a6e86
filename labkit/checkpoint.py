"""Checkpoints of a training run, from which `fit` resumes bit for bit.

    checkpoints = Checkpoints("checkpoints/04", every=100 * iterations_per_epoch)
    state, history = fit(step, state, data, ..., checkpoints=checkpoints)  # again: it resumes
    state, history = checkpoints.restore(state, iteration)                 # an earlier moment

One file holds what the rest of the run depends on (every array of the state, the iteration, the
history) and what the run is: a checksum, a line of JSON, the arrays as Equinox serialises them.
"""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import filelock
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from labkit.files import whole
from labkit.history import History

STEP = "step with its rates and schedules (checksum)"


class Mismatch(ValueError):
    """The folder holds checkpoints of another run; the message says what differs."""


class Damaged(OSError):
    """A checkpoint's content is not what was written."""


class Busy(RuntimeError):
    """Another training uses the folder."""


class Checkpoints:
    """A folder of checkpoints of one training run.

    path: the folder, made if it is missing; on Colab it may be on Drive.
    every: a checkpoint is saved after each `every` iterations.
    keep: how many of the newest are kept.

    Raises ValueError for `every` or `keep` below 1.
    """

    def __init__(self, path: str | Path, *, every: int, keep: int = 10):
        if every < 1 or keep < 1:
            raise ValueError(f"every={every}, keep={keep}: both must be 1 or more.")
        self.path, self.every, self.keep = Path(path).expanduser().absolute(), every, keep

    @property
    def iterations(self) -> list[int]:
        """After which iterations there are checkpoints, oldest first."""
        return sorted(int(f.stem) for f in self.path.glob("*.checkpoint") if f.stem.isdecimal())

    def restore(self, like: PyTree, iteration: int) -> tuple[PyTree, History]:
        """The state after `iteration`, and the history until then.

        `like` is a state of the same structure (a fresh one will do): its arrays are replaced.
        Raises ValueError if there is no such checkpoint, `Mismatch` if its state has another
        structure, `Damaged` if its checksum is wrong.
        """
        if iteration not in self.iterations:
            raise ValueError(f"{self.path} has no checkpoint {iteration}, only {self.iterations}.")
        return self._read(iteration, like, {})[:2]

    @contextlib.contextmanager
    def training(self, state: PyTree, total: int, *run) -> Iterator[tuple[int, PyTree, History]]:
        """Hold the folder for a run; give (iteration, state, history) to go on from. For `fit`.

        Raises `Busy` if another training holds it, `Mismatch` if its checkpoints are of another run
        or of more than `total` iterations, and OSError if it cannot be used. Damaged checkpoints
        are reported and renamed; no other file is touched. `run`: see `_identity`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            held = filelock.FileLock(self.path / ".lock").acquire(timeout=0)
        except filelock.Timeout:
            raise Busy(f"Another training, perhaps in another notebook, saves to {self.path}. "
                       "Wait for its end, stop it, or give another folder.") from None  # fmt: skip
        with held:
            for unfinished in self.path.glob(".*.checkpoint-*.tmp"):  # of a run that was killed
                unfinished.unlink()
            self._run, self._failing = _identity(state, *run), False
            begin = 0, state, History({}, {}, 0.0, 0.0)
            for iteration in reversed(self.iterations):
                try:
                    *begin, note = iteration, *self._read(iteration, state, self._run)
                except Damaged as damaged:
                    aside = self._file(iteration).with_suffix(".damaged")
                    self._file(iteration).replace(aside)
                    print(f"{damaged}: renamed to {aside.name}, not used.")
                    continue
                if iteration > total:
                    raise Mismatch(f"{self.path} holds {iteration} iterations, more than the "
                                   f"{total} asked for. Ask for as many, or give another folder.")  # fmt: skip
                print(f"checkpoint: resuming after iteration {iteration:,} of {total:,}{note}.")
                break
            yield begin

    def save(self, iteration: int, state: PyTree, history: History) -> None:
        """Save one checkpoint, then drop those beyond the newest `keep`. For `fit`.

        If it cannot be written, that is printed once, and the earlier checkpoints stay.
        """
        tree, arrays = (state, history.metrics, history.evaluations), io.BytesIO()
        header = [self._run | _kinds(state, iteration), *map(_shapes, tree[1:]), *history[2:]]
        eqx.tree_serialise_leaves(arrays, tree, filter_spec=_write_leaf)
        content = json.dumps(header).encode() + b"\n" + arrays.getvalue()
        try:
            with whole(self._file(iteration)) as file:
                file.write(_checksum([content]).encode() + b"\n" + content)
            for old in self.iterations[: -self.keep]:
                self._file(old).unlink()
            self._failing = False
        except OSError as error:
            if not self._failing:
                print(f"checkpoint: iteration {iteration:,} could not be saved in {self.path} "
                      f"({error.strerror}). Training goes on and tries again each time. "
                      f"Checkpoints so far: {self.iterations}.")  # fmt: skip
            self._failing = True

    def _file(self, iteration: int) -> Path:
        return self.path / f"{iteration}.checkpoint"

    def _read(self, iteration: int, like: PyTree, run: dict) -> tuple[PyTree, History, str]:
        """State, history and a note on other versions. An OSError in reading is not damage."""
        checksum, _, content = self._file(iteration).read_bytes().partition(b"\n")
        if _checksum([content]).encode() != checksum:
            raise Damaged(f"checkpoint {iteration} is damaged (its checksum is wrong)")
        header, _, arrays = content.partition(b"\n")
        stored, *shapes, seconds, compile_seconds = json.loads(header)
        note = _compare(self._file(iteration), stored, run | _kinds(like, iteration))
        empty = [{name: np.empty(*kind) for name, kind in part.items()} for part in shapes]
        state, *parts = eqx.tree_deserialise_leaves(
            io.BytesIO(arrays), (like, *empty), filter_spec=_read_leaf
        )
        return state, History(*parts, seconds, compile_seconds), note


def _compare(file: Path, stored: dict[str, Any], here: dict[str, Any]) -> str:
    """Raise `Mismatch` if a checkpoint is of another run; a note if it is of other versions."""
    names = [n for n in here | stored if n in here or n.startswith("state")]
    names = [n for n in names if stored.get(n) != here.get(n)]
    words = [f"{n} is {stored.get(n)} there and {here.get(n)} here" for n in names]
    if set(names) - {"jax", "device"} - ({STEP} if "jax" in names else set()):
        raise Mismatch(f"{file} is of another run: {'; '.join(words[:3])}. Give another folder, or "
                       "delete this one to start afresh.")  # fmt: skip
    return f" ({'; '.join(words)}: the last bits may differ)" if words else ""


def _identity(state: PyTree, step, data, key, batch_size, evaluate) -> dict[str, Any]:
    """All that determines a run besides its state, in types of JSON."""
    arrays, static = eqx.partition(state, eqx.is_array)

    def once(arrays, batch, key):
        state, metrics = step(eqx.combine(arrays, static), batch, key)
        return eqx.filter(state, eqx.is_array), metrics

    batch = jax.tree.map(lambda a: a[:batch_size], data)
    jaxpr, (_, metrics) = jax.make_jaxpr(once, return_shape=True)(arrays, batch, key)
    text = re.sub("0x[0-9a-f]+", "", str(jaxpr))  # functions' addresses
    return {
        "data (checksum)": _checksum(_raw(leaf).tobytes() for leaf in jax.tree.leaves(data)),
        "batch_size": batch_size,
        "key": f"{jax.random.key_impl(key)} {jax.random.key_data(key).tolist()}",
        "metrics": sorted(metrics),
        "evaluations": sorted(evaluate(state)) if evaluate else [],
        STEP: _checksum([text.encode(), *(_raw(a).tobytes() for a in _captured(jaxpr))]),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _captured(jaxpr) -> Iterator:
    """The arrays that a jaxpr closes over, and those of the jaxprs inside it (of jit, scan, …)."""
    yield from getattr(jaxpr, "consts", ())
    for inner in jax.tree.leaves([equation.params for equation in jaxpr.eqns]):
        if hasattr(inner, "eqns"):
            yield from _captured(inner)


def _checksum(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _is_array(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _kinds(state: PyTree, iteration: int) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(state, _is_array))
    kinds = {f"state{jax.tree_util.keystr(p)}": f"{a.dtype}{[*a.shape]}" for p, a in leaves}
    return kinds | {"iteration": iteration}


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    return {name: [a.shape, str(a.dtype)] for name, a in arrays.items()}


def _write_leaf(file, leaf) -> None:
    if _is_array(leaf):
        file.write(_raw(leaf).tobytes())


def _read_leaf(file, leaf) -> Any:
    """What was written, as what `leaf` is: keys stay keys, weak types weak."""
    if not _is_array(leaf):
        return leaf
    raw = _raw(leaf)
    array = np.ndarray(raw.shape, raw.dtype, file.read(raw.nbytes)).copy()
    if isinstance(leaf, np.ndarray):
        return array
    if _is_key(leaf):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    return leaf.at[...].set(array) if leaf.weak_type else jnp.asarray(array)
