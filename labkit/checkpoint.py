"""Checkpoints of a training run, from which `fit` resumes bit for bit.

    checkpoints = Checkpoints("checkpoints/04", every=100 * iterations_per_epoch)
    state, history = fit(step, start, data, ..., checkpoints=checkpoints)  # again: it resumes
    state, history = checkpoints.restore(start, iteration)                 # an earlier moment

Each is one file: a checksum, a line of JSON that says which run it is, and the arrays' bytes.
"""

import contextlib
import hashlib
import io
import json
import os
import re
from pathlib import Path

import equinox as eqx
import filelock
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from labkit.files import whole
from labkit.history import History

ARRAY, KEY, STEP = jax.Array | np.ndarray, jax.dtypes.prng_key, "step or its rates"


class Mismatch(ValueError):
    """The folder holds checkpoints of another run; the message says what differs."""


class Damaged(OSError):
    """A checkpoint's content is not what was written."""


class Checkpoints:
    """A folder of checkpoints of one training run, made if it is missing; it may be on Drive.

    One is saved after each `every` iterations; the newest `keep` are kept (both 1 or more).
    """

    def __init__(self, path: str | Path, *, every: int, keep: int = 10):
        if every < 1 or keep < 1:
            raise ValueError(f"every={every}, keep={keep}: both must be 1 or more.")
        self.path, self.every, self.keep = Path(path).expanduser().absolute(), every, keep

    @property
    def iterations(self) -> list[int]:
        """After which iterations there are checkpoints, oldest first."""
        names = os.listdir(self.path) if self.path.exists() else []
        return sorted(int(n[:-11]) for n in names if re.fullmatch("[0-9]+[.]checkpoint", n))

    def restore(self, like: PyTree, iteration: int) -> tuple[PyTree, History]:
        """The state after `iteration` and the history until then; `like` is a state, say the start.

        Raises ValueError if there is no such checkpoint, `Mismatch` if its state has other arrays.
        """
        if iteration not in self.iterations:
            raise ValueError(f"{self.path} has no checkpoint {iteration}, only {self.iterations}.")
        return self._read(iteration, like, {})[:2]

    @contextlib.contextmanager
    def training(self, state: PyTree, total: int, *run):
        """Hold the folder for a run; give (iteration, state, history) to go on from. For `fit`.

        Raises RuntimeError if another training holds it, `Mismatch` if it has another run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            held = filelock.FileLock(self.path / ".lock").acquire(timeout=0)
        except filelock.Timeout:
            raise RuntimeError(f"Another training, in this process or another, uses {self.path}. "
                               "Wait, stop it, or give another folder.") from None  # fmt: skip
        with held:
            for unfinished in self.path.glob(".*.checkpoint-*.tmp"):  # of a run that was killed
                unfinished.unlink()
            self._run, self._failing = _identity(state, *run), False
            found = 0, state, History({}, {}, 0.0, 0.0)
            for iteration in reversed(self.iterations):
                try:
                    *found, note = iteration, *self._read(iteration, state, self._run)
                except Damaged as damaged:
                    self._file(iteration).replace(self.path / f"{iteration}.damaged")
                    print(f"{damaged}: renamed to {iteration}.damaged, not used.")
                    continue
                if iteration > total:
                    raise Mismatch(f"{self.path} holds {iteration} iterations, more than {total}.")
                print(f"checkpoint: resuming after iteration {iteration:,} of {total:,}{note}.")
                break
            yield found

    def save(self, iteration: int, state: PyTree, history: History) -> None:
        """Save one, then drop all but the newest `keep`. A failure is printed, once in a row."""
        shapes = [{n: (a.shape, str(a.dtype)) for n, a in part.items()} for part in history[:2]]
        header = [self._run | _kinds(state) | {"iteration": iteration}, *shapes, *history[2:]]
        leaves = [a for a in jax.tree.leaves((state, history[:2])) if isinstance(a, ARRAY)]
        leaves = [_raw(a).ravel().view(np.uint8) for a in leaves]  # TypeError for Python objects
        content = b"\n".join([json.dumps(header).encode(), b"".join(leaves)])
        try:
            with whole(self._file(iteration)) as file:
                file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            for old in self.iterations[: -self.keep]:
                self._file(old).unlink()
            self._failing = False
        except OSError as error:
            if not self._failing:
                print(f"checkpoint {iteration} could not be saved in {self.path} ({error.strerror})"
                      "; the earlier ones are intact. Training goes on.")  # fmt: skip
            self._failing = True

    def _file(self, iteration: int) -> Path:
        return self.path / f"{iteration}.checkpoint"

    def _read(self, iteration: int, like: PyTree, run: dict) -> tuple[PyTree, History, str]:
        """State, history and what else to say. An OSError in reading is not damage."""
        checksum, _, content = self._file(iteration).read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != checksum:
            raise Damaged(f"checkpoint {iteration} is damaged (its checksum is wrong)")
        header, _, arrays = content.partition(b"\n")
        there, *shapes, seconds, compile_seconds = json.loads(header)
        here = run | _kinds(like) | {"iteration": iteration}
        names = [n for n in here | there if n in here or n.startswith("state")]
        names = [n for n in names if there.get(n) != here.get(n)]
        words = "; ".join(f"{n} is {there.get(n)} there and {here.get(n)} here" for n in names[:3])
        elsewhere = {"jax", "device", "start", STEP} if {"jax", "device"} & {*names} else set()
        if {*names} - elsewhere:
            raise Mismatch(f"{self._file(iteration)} is of another run: {words}. "
                           "Give another folder, or delete this one.")  # fmt: skip
        tree = like, *({name: np.empty(*kind) for name, kind in part.items()} for part in shapes)
        state, *parts = eqx.tree_deserialise_leaves(io.BytesIO(arrays), tree, filter_spec=_load)
        words = f" ({words}: the last bits may differ)" if words else ""
        return state, History(*parts, seconds, compile_seconds), words


def _identity(state: PyTree, step, data, key, batch_size, evaluate) -> dict[str, object]:
    """All that determines a run besides the kind of its state, in types of JSON."""
    batch = jax.tree.map(lambda a: jnp.asarray(a[:batch_size]), data)
    jaxpr, (_, metrics), _ = eqx.filter_make_jaxpr(step)(state, batch, key)
    text = re.sub("0x[0-9a-f]+", "", str(jaxpr))  # addresses of functions differ every time
    captured, jaxprs = [np.frombuffer(text.encode(), np.uint8)], [jaxpr]
    for this in jaxprs:  # and those inside it: of jit, scan, cond …
        captured += getattr(this, "consts", ())
        jaxprs += [j for j in jax.tree.leaves([e.params for e in this.eqns]) if hasattr(j, "eqns")]
    return {
        "start": _checksum(eqx.filter(state, eqx.is_array)),
        "batch_size": batch_size,
        "key": f"{jax.random.key_impl(key)} {jax.random.key_data(key).tolist()}",
        "data": _checksum(data),
        "metrics": sorted(metrics),
        "evaluations": sorted(evaluate(state)) if evaluate else [],
        STEP: _checksum(captured),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _checksum(arrays: PyTree) -> str:
    leaves = [_raw(leaf).ravel().view(np.uint8) for leaf in jax.tree.leaves(arrays)]
    return hashlib.sha256(b"".join(hashlib.sha256(a).digest() for a in leaves)).hexdigest()[:12]


def _kinds(state: PyTree) -> dict[str, str]:
    arrays = eqx.filter(state, lambda leaf: isinstance(leaf, ARRAY))
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {f"state{jax.tree_util.keystr(p)}": f"{a.dtype}{[*a.shape]}" for p, a in leaves}


def _raw(array) -> np.ndarray:
    return np.asarray(jax.random.key_data(array) if jnp.issubdtype(array.dtype, KEY) else array)


def _load(file, leaf):
    """What was saved, as what `leaf` is: a key, of a weak type, NumPy's, or no array."""
    if not isinstance(leaf, ARRAY):
        return leaf
    raw = _raw(leaf)
    array = np.ndarray(raw.shape, raw.dtype, file.read(raw.nbytes)).copy()
    if jnp.issubdtype(leaf.dtype, KEY):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, np.ndarray):
        return array
    return leaf.at[...].set(array) if leaf.weak_type else jnp.asarray(array)
