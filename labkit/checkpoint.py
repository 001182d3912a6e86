"""Checkpoints of a training run, kept with Orbax, from which `fit` resumes bit for bit.

    folder = checkpoint.Folder("checkpoints/04", every=100 * iterations_per_epoch)
    state, history = fit(step, state, data, ..., checkpoints=folder)   # run it again: it resumes
    state, history = folder.restore(state, iteration)                  # look at an earlier moment

A checkpoint holds what the rest of the run depends on: every array of the state (model, optimiser
state, whatever else is in it), the random key, the iteration, and the history so far. A save that
is cut short leaves no checkpoint behind, only the earlier ones.
"""

import contextlib
import gc
import hashlib
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from labkit.fit import History

SEAL = "SHA256"


class Mismatch(ValueError):
    """The folder holds checkpoints of another run; the message says what differs."""


class Damaged(OSError):
    """A checkpoint cannot be read back as it was written."""


class Folder:
    """A folder of checkpoints of one training run.

    path: the folder, made where it is missing; on Colab it may lie on Drive.
    every: a checkpoint is saved after each `every` iterations.
    keep: how many of the newest are kept.

    Raises ValueError for `every` or `keep` below 1.
    """

    def __init__(self, path: str | Path, *, every: int, keep: int = 10):
        if every < 1 or keep < 1:
            raise ValueError(f"every={every}, keep={keep}: both must be 1 or more.")
        self.path, self.every, self.keep = Path(path), int(every), int(keep)

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r}, every={self.every}, keep={self.keep})"

    @property
    def iterations(self) -> list[int]:
        """After which iterations there are checkpoints, oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.path.iterdir() if entry.name.isdecimal())

    def save(self, iteration: int, state: PyTree, history: History, run: dict[str, Any]) -> None:
        """Save one checkpoint, then drop those beyond the newest `keep`; `fit` calls this.

        `run` says which run it is, in JSON's types (the random key, the batch size, …).
        Raises OSError where it cannot be written; the earlier checkpoints are untouched then.
        """
        names, arrays = _leaves(state)
        state_length = len(names)
        for part in ("metrics", "evaluations"):
            values = getattr(history, part)
            names += [f"{part}:{name}" for name in values]
            arrays += [np.asarray(value) for value in values.values()]
        about = {
            "names": names,
            "state_length": state_length,
            "seconds": [history.seconds, history.compile_seconds],
            "run": run,
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with _quiet(), self._manager() as manager:
                manager.save(
                    iteration,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardSave(_numbered(arrays)),
                        about=ocp.args.JsonSave(about),
                    ),
                    force=True,
                )
            self._seal(iteration)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            self._clear_unfinished()
            kept = f"{len(self.iterations)} earlier checkpoints are intact"
            raise OSError(
                f"The checkpoint of iteration {iteration} could not be saved in {self.path}: "
                f"{_reason(error)}. {kept}: once there is room to write (about "
                f"{sum(a.nbytes for a in arrays) / 1e6:.0f} MB each), run the same training "
                "again and it goes on from the newest."
            ) from None

    def restore(self, like: PyTree, iteration: int) -> tuple[PyTree, History]:
        """The state after `iteration`, and the history until then.

        `like` is a state of the same structure (a fresh one will do): its arrays are replaced.
        Raises ValueError where there is no such checkpoint, `Mismatch` where it is one of another
        architecture, `Damaged` where it cannot be read.
        """
        if iteration not in self.iterations:
            raise ValueError(
                f"{self.path} has no checkpoint of iteration {iteration}; it has {self.iterations}."
            )
        return self._read(like, iteration, None)

    def resume(
        self, like: PyTree, total: int, run: dict[str, Any]
    ) -> tuple[int, PyTree, History] | None:
        """The newest sound checkpoint as (iteration, state, history), or None; `fit` calls this.

        Says from where it goes on, and which checkpoints are damaged (they are put aside). Raises
        `Mismatch` where the folder holds another run, or one longer than `total` iterations.
        """
        self._clear_unfinished()
        for iteration in reversed(self.iterations):
            if iteration > total:
                raise Mismatch(
                    f"{self.path} holds a run of {iteration} iterations, more than the {total} "
                    "asked for. Ask for as many, delete the folder, or give another one."
                )
            try:
                state, history = self._read(like, iteration, run)
            except Damaged as damaged:
                aside = self.path / f"{iteration}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self.path / str(iteration)).rename(aside)
                print(f"checkpoint: {damaged}; put aside as {aside.name}, the one before is taken.")
                continue
            print(f"checkpoint: resuming after iteration {iteration:,} of {total:,}.")
            return iteration, state, history
        return None

    def _read(self, like, iteration: int, run: dict | None) -> tuple[PyTree, History]:
        try:
            self._check_seal(iteration)
            with _quiet(), self._manager() as manager:
                stored = manager.restore(
                    iteration,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
                    ),
                )
            about = stored.about
            arrays = [np.asarray(stored.arrays[name]) for name in _numbered(about["names"])]
        except Exception as error:  # whatever a damaged file may cause
            raise Damaged(f"that of iteration {iteration} is damaged ({_reason(error)})") from None
        length = about["state_length"]
        self._compare(like, about["names"][:length], arrays[:length], about["run"], run)
        parts = {"metrics": {}, "evaluations": {}}
        for name, array in zip(about["names"][length:], arrays[length:], strict=True):
            part, name = name.split(":", 1)
            parts[part][name] = array
        seconds, compile_seconds = about["seconds"]
        history = History(**parts, seconds=seconds, compile_seconds=compile_seconds)
        return _with_leaves(like, arrays[:length]), history

    def _compare(self, like, names, arrays, stored_run, run) -> None:
        """Raise `Mismatch` where the checkpoint belongs to another model or another run."""
        way_out = "Give another folder, or delete this one to start afresh."
        here = dict(zip(*_leaves(like), strict=True))
        there = dict(zip(names, arrays, strict=True))
        for name in here | there:
            shapes = [_described(tree.get(name)) for tree in (there, here)]
            if shapes[0] != shapes[1]:
                raise Mismatch(
                    f"{self.path} holds checkpoints of another architecture: state{name} is "
                    f"{shapes[0]} there and {shapes[1]} here. {way_out}"
                )
        for name in run or {}:
            if stored_run.get(name) != run[name]:
                raise Mismatch(
                    f"{self.path} holds checkpoints of another run: {name} is "
                    f"{stored_run.get(name)} there and {run[name]} here. {way_out}"
                )

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(self.keep),
            enable_async_checkpointing=False,
        )
        return ocp.CheckpointManager(self.path.absolute(), options=options)

    def _seal(self, iteration: int) -> None:
        """Write the checksums of a checkpoint's files beside them: TensorStore keeps none."""
        target = self.path / str(iteration) / SEAL
        temporary = target.with_suffix(".orbax-checkpoint-tmp")
        temporary.write_text(json.dumps(_checksums(target.parent)))
        temporary.replace(target)

    def _check_seal(self, iteration: int) -> None:
        seal = self.path / str(iteration) / SEAL
        if seal.exists():  # a process killed between saving and sealing leaves none
            found = _checksums(seal.parent)
            for name, checksum in json.loads(seal.read_text()).items():
                if found.get(name) != checksum:
                    raise OSError(f"{name} is {'changed' if name in found else 'missing'}")

    def _clear_unfinished(self) -> None:
        """Remove what a killed or failed save left behind."""
        for unfinished in self.path.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _leaves(tree: PyTree) -> tuple[list[str], list[np.ndarray]]:
    """The arrays of a tree with a name for each, such as `[0].layers[1].weight`."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return names, [np.asarray(_raw(leaf)) for _, leaf in leaves]


def _with_leaves(tree: PyTree, arrays: list[np.ndarray]) -> PyTree:
    """The same tree with other arrays, which become JAX arrays again, keys become keys."""
    old, static = eqx.partition(tree, eqx.is_array)
    leaves, structure = jax.tree.flatten(old)
    new = [
        jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else jax.numpy.asarray(array)
        for leaf, array in zip(leaves, arrays, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(structure, new), static)


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _numbered(values: list) -> dict[str, Any]:
    return {f"{number:04}": value for number, value in enumerate(values)}


def _described(array: np.ndarray | None) -> str:
    return "missing" if array is None else f"{array.dtype}{list(array.shape)}"


def _checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a checkpoint, by its path inside."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(SEAL)
    }


@contextlib.contextmanager
def _quiet():
    """Orbax logs every error it raises, at length; we raise our own.

    When a save fails, Orbax leaves other writes of it under way. Their errors are collected here
    (`gc`), and what TensorStore's threads report to Orbax's closed event loop stays out of sight.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def without_late_reports(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = without_late_reports
    try:
        yield
        sys.unraisablehook = hook
    except Exception:
        gc.collect()
        raise
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    """The cause in a few words; TensorStore's messages run over many lines."""
    text = " ".join(str(error).split())
    for known in ("No space left on device", "Read-only file system", "Permission denied"):
        if known in text:
            return known
    return text[:150] or type(error).__name__
