"""The training loop that notebook 01 explains, as a function: one compiled scan per epoch."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree
from tqdm import tqdm

if TYPE_CHECKING:
    from labkit.checkpoint import Folder


class Diverged(ArithmeticError):
    """A metric became NaN or infinite; the message names it, the epoch and the step."""


class History(NamedTuple):
    """What `fit` saw.

    metrics: one value per iteration, each array of shape (iterations, ...).
    evaluations: one value per evaluation; `evaluations["iteration"]` says after which iteration.
    seconds: time in compiled training code, in s; neither compiling nor evaluating is in it.
    compile_seconds: time spent compiling, in s.
    """

    metrics: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float


def fit(
    step: Callable[[PyTree, PyTree, PRNGKeyArray], tuple[PyTree, dict[str, Array]]],
    state: PyTree,
    data: PyTree,
    *,
    key: PRNGKeyArray,
    batch_size: int,
    epochs: int | None = None,
    iterations: int | None = None,
    evaluate: Callable[[PyTree], dict[str, float]] | None = None,
    every: int | None = None,
    checkpoints: "Folder | None" = None,
    progress: bool = True,
) -> tuple[PyTree, History]:
    """Train: `state, metrics = step(state, batch, key)`, over and over; explained in notebook 01.

    `data` is an array, or a tree of arrays, whose first axes have the same length N. It goes to
    the device once. Each epoch draws a permutation of it and scans over N // batch_size batches
    in one compiled call (an incomplete last batch is left out). The batch is split over all local
    devices where batch_size divides by their number, over as many as divide it if not.

    Give either `epochs` or `iterations`. `evaluate(state)` runs after each epoch, or after
    `every` iterations, and once more at the end. `state` may hold anything; its arrays are
    trained, the rest passes through. The arrays you pass in stay yours (they are copied once).

    `checkpoints`, a `labkit.checkpoint.Folder`, saves the run as it goes. Where the folder holds
    checkpoints of the same run already, training goes on from the newest, says so, and ends with
    the very bits of a run that was never interrupted (on the same device, same versions).

    Returns the trained state and a `History`. Raises ValueError for arguments that do not fit
    and `Diverged` where a metric is not finite.
    """
    examples, per_epoch, total = _plan(data, batch_size, epochs, iterations)
    if every is not None and every < 1:
        raise ValueError(f"every={every}: evaluate after how many iterations? Give 1 or more.")
    interval = every or per_epoch

    shards = math.gcd(batch_size, jax.local_device_count())
    mesh = Mesh(np.array(jax.local_devices()[:shards]), ("batch",))
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("batch"))

    run_name = {
        "key": jax.random.key_data(key).tolist(),
        "batch_size": batch_size,
        "examples": examples,
    }
    done, chunks, evaluations, seconds, compile_seconds = 0, [], [], 0.0, 0.0
    resumed = checkpoints.resume(state, total, run_name) if checkpoints else None
    if resumed:
        done, state, past = resumed
        chunks = [past.metrics]
        rows = _unstack(past.evaluations)  # one at the end of a shorter run is not this run's
        evaluations = [r for r in rows if r["iteration"] % interval == 0 or done == total]
        seconds, compile_seconds = past.seconds, past.compile_seconds

    arrays, static = eqx.partition(state, eqx.is_array)
    arrays = jax.device_put(jax.tree.map(jnp.copy, arrays), replicated)
    data = jax.device_put(data, replicated)
    key = jax.device_put(key, replicated)

    @partial(jax.jit, out_shardings=replicated)
    def permutation(key, epoch):
        return jax.random.permutation(
            jax.random.fold_in(jax.random.fold_in(key, epoch), 0), examples
        )

    began = time.perf_counter()
    permutation = permutation.lower(key, np.int32(0)).compile()
    compile_seconds += time.perf_counter() - began

    def rows_of(first: int, last: int) -> np.ndarray:
        """Which examples the iterations first … last-1 take, (last - first, batch_size)."""
        parts = []
        for epoch in range(first // per_epoch, (last - 1) // per_epoch + 1):
            if epoch not in orders:
                orders.clear()
                orders[epoch] = np.asarray(permutation(key, np.int32(epoch)))[
                    : per_epoch * batch_size
                ]
            begin = epoch * per_epoch
            order = orders[epoch].reshape(per_epoch, batch_size)
            parts.append(order[max(first - begin, 0) : last - begin])
        return np.concatenate(parts)

    @partial(jax.jit, donate_argnums=0, out_shardings=replicated)
    def run(arrays, data, key, rows, iterations):
        def body(arrays, now):
            rows, iteration = now
            batch = jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a[rows], split), data)
            epoch_key = jax.random.fold_in(key, iteration // per_epoch)
            step_key = jax.random.fold_in(epoch_key, iteration % per_epoch + 1)
            state, metrics = step(eqx.combine(arrays, static), batch, step_key)
            return eqx.filter(state, eqx.is_array), metrics

        return jax.lax.scan(body, arrays, (rows, iterations))

    def history() -> History:
        metrics = _stack(chunks, np.concatenate)
        return History(metrics, _stack(evaluations, np.stack), seconds, compile_seconds)

    orders, compiled = {}, {}
    quiet = {} if progress else {"disable": True}  # left out, TQDM_DISABLE=1 has its say
    with tqdm(total=total, initial=done, unit="it", leave=False, **quiet) as bar:
        while done < total:
            length = min(interval - done % interval, total - done)
            if checkpoints:
                length = min(length, checkpoints.every - done % checkpoints.every)
            began = time.perf_counter()
            rows, iterations = rows_of(done, done + length), np.arange(done, done + length)
            arguments = arrays, data, key, *jax.device_put((rows, iterations), replicated)
            seconds += time.perf_counter() - began
            if length not in compiled:
                began = time.perf_counter()
                compiled[length] = run.lower(*arguments).compile()
                compile_seconds += time.perf_counter() - began
            began = time.perf_counter()
            arrays, metrics = jax.block_until_ready(compiled[length](*arguments))
            seconds += time.perf_counter() - began
            chunks.append(jax.device_get(metrics))
            _stop_if_not_finite(chunks[-1], done, per_epoch)
            done += length
            shown = {name: float(np.mean(m)) for name, m in chunks[-1].items() if m.ndim == 1}
            if evaluate and (done % interval == 0 or done == total):
                values = evaluate(eqx.combine(arrays, static))
                evaluations.append({"iteration": done} | jax.device_get(values))
                shown |= {name: float(v) for name, v in values.items() if np.ndim(v) == 0}
            if checkpoints and done % checkpoints.every == 0:
                checkpoints.save(done, eqx.combine(arrays, static), history(), run_name)
            bar.update(length)
            bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})
    return eqx.combine(arrays, static), history()


def _plan(data, batch_size, epochs, iterations) -> tuple[int, int, int]:
    """Number of examples, of iterations per epoch and of iterations in all; or a ValueError."""
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            "data must be arrays with one first axis of the same length (the examples); "
            f"their first axes are {sorted(lengths)}."
        )
    (examples,) = lengths.pop()
    if not 1 <= batch_size <= examples:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and {examples} examples.")
    if (epochs is None) == (iterations is None):
        raise ValueError("Say how long to train: give either epochs=... or iterations=...")
    per_epoch = examples // batch_size
    total = iterations if epochs is None else epochs * per_epoch
    if total < 1:
        raise ValueError(
            f"epochs={epochs}, iterations={iterations}: nothing to do; give 1 or more."
        )
    return examples, per_epoch, total


def _stop_if_not_finite(metrics: dict[str, np.ndarray], done: int, per_epoch: int) -> None:
    for name, values in metrics.items():
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if bad.any():
            first = int(bad.argmax())
            epoch, step = divmod(done + first, per_epoch)
            raise Diverged(
                f"{name} became {values[first]} at epoch {epoch + 1}, step {step + 1} "
                f"(iteration {done + first + 1}). Training stopped. A smaller learning rate or "
                "inference rate is the usual cure."
            )


def _stack(rows: list[dict[str, Any]], join: Callable) -> dict[str, np.ndarray]:
    return {name: join([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def _unstack(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
