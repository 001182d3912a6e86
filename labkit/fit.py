"""The training loop that notebook 01 shows, as a function: a compiled scan, run epoch by epoch."""

import contextlib
import time
from collections.abc import Callable
from functools import lru_cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from IPython import get_ipython
from IPython.display import display
from jaxtyping import Array, PRNGKeyArray, PyTree
from tqdm import tqdm

from labkit.history import History


class Diverged(ArithmeticError):
    """A metric became NaN or infinite; the message names it, the epoch and the step."""


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
    checkpoints: "labkit.checkpoint.Checkpoints | None" = None,
    progress: bool = True,
) -> tuple[PyTree, History]:
    """Train: `state, metrics = step(state, batch, key)`, over and over; explained in notebook 01.

    `data` is an array, or a tree of arrays, with a first axis of the same length N. It goes to the
    device once. Each epoch shuffles it and scans over N // batch_size batches in compiled code (an
    incomplete last batch is left out). With `epoch_key = fold_in(key, epoch)` the shuffle uses
    `fold_in(epoch_key, 0)`, and step i uses `fold_in(epoch_key, i + 1)`.

    Give either `epochs` or `iterations`. `evaluate(state)` runs after each epoch, or after `every`
    iterations, and at the end. `state` may hold anything; copies of its JAX arrays are trained.

    `checkpoints` saves the run as it goes. If the folder holds checkpoints of the same run,
    training resumes from the newest, says so, and ends with the bits of a run that was never
    interrupted (on the same device, with the same versions).

    Returns the trained state and a `History`. Raises ValueError for invalid or inconsistent
    arguments, `Diverged` if a metric is not finite, and what `Checkpoints.training` raises.
    """
    examples, per_epoch, total = _lengths(data, batch_size, epochs, iterations)
    if every is not None and every < 1:
        raise ValueError(f"every={every}: evaluate after how many iterations? Give 1 or more.")
    interval = every or per_epoch
    if not (every or evaluate or checkpoints):  # nobody looks in between: equal scans compile once
        fewest = -(-total // per_epoch)
        equal = [total // n for n in range(fewest, 2 * fewest + 1) if total % n == 0]
        interval = max(equal, default=per_epoch)
    static = eqx.filter(state, eqx.is_array, inverse=True)

    @lru_cache(2)
    def rows_of(epoch: int) -> np.ndarray:
        """The examples that each iteration of an epoch takes, (per_epoch, batch_size)."""
        shuffle_key = jax.random.fold_in(jax.random.fold_in(key, epoch), 0)
        order = np.asarray(jax.random.permutation(shuffle_key, examples))
        return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)

    @partial(jax.jit, donate_argnums=0)
    def run(arrays, data, key, rows, iterations):
        def body(arrays, now):
            rows, iteration = now
            epoch_key = jax.random.fold_in(key, iteration // per_epoch)
            step_key = jax.random.fold_in(epoch_key, iteration % per_epoch + 1)
            batch = jax.tree.map(lambda a: a[rows], data)
            state, metrics = step(eqx.combine(arrays, static), batch, step_key)
            return eqx.filter(state, eqx.is_array), metrics

        return jax.lax.scan(body, arrays, (rows, iterations))

    past = contextlib.nullcontext((0, state, History({}, {}, 0.0, 0.0)))
    if checkpoints:
        past = checkpoints.training(state, total, step, data, key, batch_size, evaluate)
    with past as (done, state, past), _bar(total, done, progress) as bar:
        metrics = [past.metrics] if done else []
        evaluations = [past.evaluations] if past.evaluations else []
        seconds, compile_seconds, compiled = past.seconds, past.compile_seconds, {}
        arrays = jax.tree.map(jnp.copy, eqx.filter(state, eqx.is_array))
        data, key = jax.device_put((data, key))

        def history() -> History:
            return History(_joined(metrics), _joined(evaluations), seconds, compile_seconds)

        def look() -> dict[str, np.ndarray]:
            values = {"iteration": done} | evaluate(eqx.combine(arrays, static))
            evaluations.append({k: np.asarray([jax.device_get(v)]) for k, v in values.items()})
            return evaluations[-1]

        while done < total:
            length = min(interval - done % interval, total - done)
            if checkpoints:
                length = min(length, checkpoints.every - done % checkpoints.every)
            began = time.perf_counter()
            these = range(done // per_epoch, (done + length - 1) // per_epoch + 1)
            rows = np.concatenate([rows_of(epoch) for epoch in these])[done % per_epoch :][:length]
            arguments = arrays, data, key, rows, np.arange(done, done + length, dtype=np.int32)
            if length not in compiled:
                compiled[length] = run.lower(*arguments).compile()
                compile_seconds += time.perf_counter() - began
                began = time.perf_counter()
            arrays, new = jax.block_until_ready(compiled[length](*arguments))
            seconds += time.perf_counter() - began
            metrics.append(jax.device_get(new))
            _stop_if_not_finite(metrics[-1], done, per_epoch)
            done += length
            seen = metrics[-1] | (look() if evaluate and done % interval == 0 else {})
            if checkpoints and done % checkpoints.every == 0:
                checkpoints.save(done, eqx.combine(arrays, static), history())
            seen = {k: f"{np.mean(v):.4g}" for k, v in seen.items() if v.ndim == 1}
            bar.set_postfix(seen, refresh=False)
            bar.update(length)
        if evaluate and not (evaluations and evaluations[-1]["iteration"][-1] == total):
            look()
        return eqx.combine(arrays, static), history()


def _lengths(data, batch_size, epochs, iterations) -> tuple[int, int, int]:
    """Number of examples, of iterations per epoch and of iterations in all; or a ValueError."""
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(f"data need a first axis of the same length (examples), not {lengths}.")
    (examples,) = lengths.pop()
    if not 1 <= batch_size <= examples:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and {examples} examples.")
    if (epochs is None) == (iterations is None):
        raise ValueError("Say how long to train: give either epochs=... or iterations=...")
    per_epoch = examples // batch_size
    total = iterations if epochs is None else epochs * per_epoch
    if total < 1:
        raise ValueError(f"epochs={epochs}, iterations={iterations}: both must be 1 or more.")
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


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([p[name] for p in parts]) for name in (parts[0] if parts else {})}


class _Line:
    """Where tqdm writes in a notebook: one output of plain text, overwritten in place."""

    encoding, handle, flush = "utf-8", None, lambda self: None

    def write(self, text: str) -> None:
        if text := text.strip():
            show = self.handle.update if self.handle else partial(display, display_id=True)
            self.handle = show({"text/plain": text}, raw=True) or self.handle


def _bar(total: int, done: int, progress: bool) -> tqdm:
    """A progress bar; in a notebook it stays as one line. TQDM_DISABLE=1 silences it."""
    where = {"file": _Line(), "ncols": 99} if hasattr(get_ipython(), "kernel") else {"leave": False}
    quiet = {} if progress else {"disable": True}  # if left out, tqdm reads TQDM_DISABLE
    return tqdm(total=total, initial=done, unit="it", miniters=1, **where, **quiet)
