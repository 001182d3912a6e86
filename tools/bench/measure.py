"""Measure the course's own training code: against textbook loops, the machine, and its settings.

usage: python tools/bench.py [--quick] [--out FOLDER]

Writes pages/bench.csv (training loops), bench_cost.csv and bench.png (cost against width,
depth, inference steps and batch size), and what stands between the bench markers in README.md and
pages/status.md. Rows of another kind of device (cpu, gpu) are kept. Models, settings and
training come out of the notebooks, not out of a copy. Measure on an idle machine. `--quick` tries
everything in a minute, measures nothing worth keeping, and writes into _build/bench.
"""

import argparse
import csv
import datetime
import inspect
import itertools
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.ticker import NullFormatter, ScalarFormatter

from labkit import data, plot, session
from labkit.fit import fit
from tools import slice as cells
from tools.bench.flops import matmul_flops

ROOT = Path(__file__).resolve().parents[2]
RECORDED = "labkit/recorded"
REGION = re.compile(r"<!-- bench -->.*<!-- /bench -->", re.DOTALL)
PAGES = {"README.md": "notebooks/", "pages/status.md": ""}  # and where notebooks are from there
AGREE = 0.01  # of the distance that the weights moved
WAYS = {"updates": "Loop of updates", "steps": "Loop of steps", "scan": "One scan (ours)"}


FIRST = 5  # iterations after which the ways must agree


class Effort(NamedTuple):
    """How much is measured: seconds of our training in one repetition, and how many of them."""

    seconds: float
    repetitions: int
    points: dict[str, list[int]]  # of the cost figure


FULL = Effort(
    seconds=0.3,
    repetitions=7,
    points={
        "width": [32, 64, 128, 256, 512, 1024, 2048],
        "depth": [1, 2, 4, 8, 16, 32],
        "steps": [1, 2, 4, 8, 16, 32, 64, 128, 256],
        "batch": [16, 32, 64, 128, 256, 512, 1024, 2048],
    },
)
QUICK = Effort(
    seconds=0.0,
    repetitions=1,
    points={"width": [32, 64], "depth": [1], "steps": [1], "batch": [8]},
)
PANELS = {  # title, axis, what the count of operations says about the slope
    "width": ("Width", "units in each hidden layer", "2: weights between layers are width²"),
    "depth": ("Depth", "hidden layers", "1: each layer adds the same"),
    "steps": ("Inference", "inference steps", "1: each step costs the same"),
    "batch": ("Batch", "images in a batch", "1: each image costs the same"),
}


class Training(NamedTuple):
    """A training of a notebook, caught on its way into `fit`.

    notebook: the notebook's names; calls: the arguments of its other functions, by name.
    """

    notebook: SimpleNamespace
    calls: dict[str, SimpleNamespace]
    step: Callable
    state: Any
    data: Any
    key: jax.Array
    batch_size: int


class Model(NamedTuple):
    """What to measure: the notebook, the name that its training makes, and the textbook loop.

    watch: functions whose arguments the loop needs; uses: more names of the notebook for it.
    """

    name: str
    notebook: str
    made: str
    watch: tuple[str, ...]
    uses: tuple[str, ...]
    textbook: Callable[[Training], Callable] | None


# --- The loops as textbooks write them. Each takes state, batches and keys, returns the state. ---


def predictive_coding(training: Training) -> Callable:
    """Notebook 01's own loop, with the settings of its long training."""
    inference = training.calls["per_example"]
    descent = optax.sgd(inference.rate * training.batch_size)
    optimiser = training.calls["make_step"].optimiser

    def loop(state, batches, keys):
        train = training.notebook.train_as_textbooks_do
        return train(state[0], batches, descent, inference.steps, optimiser)

    return loop


def generative(training: Training) -> Callable:
    """Guess, infer step by step with error units, learn by one Hebbian step."""
    nb, settings = training.notebook, training.calls["make_step"]
    rates, guess = [0.0, settings.rate, settings.rate, 0.0], jax.jit(nb.top_down)

    @jax.jit
    def learn(weights, chain):
        updates = nb.hebbian(weights, chain)
        return [W + settings.learning_rate * dW for W, dW in zip(weights, updates)]

    def loop(weights, batches, keys):
        for x, y in batches:
            chain = [*guess(weights, x)[:-1], y]
            for _ in range(settings.steps):
                chain = nb.infer(weights, chain, rates, steps=1)
            weights = learn(weights, chain)
        return weights

    return loop


def bidirectional(training: Training) -> Callable:
    """Guess, infer step by step, learn; for BPC and hybrid PC."""
    nb, settings = training.notebook, training.calls["make_step"]
    guess = eqx.filter_jit(settings.guess)

    @eqx.filter_jit
    def move(networks, z, x, y):
        return nb.infer(*networks, z, x, y, settings.rate, 1, **settings.weights)

    @eqx.filter_jit
    def learn(state, z, batch):
        step = nb.make_step(settings.optimiser, guess=lambda *_: z, rate=0.0, steps=0)
        return step(state, batch, None)[0]

    def loop(state, batches, keys):
        for x, y in batches:
            z = guess(state[0], x, y)
            for _ in range(settings.steps):
                z = move(state[0], z, x, y)
            state = learn(state, z, (x, y))
        return state

    return loop


def energy_based(training: Training) -> Callable:
    """Take chains from the buffer, run them step by step, learn, put them back."""
    nb, settings = training.notebook, training.calls["make_step"]
    chain = settings.chain

    @eqx.filter_jit
    def begin(buffer, images, key):
        row_key, data_key, start_key, chain_key = jax.random.split(key, 4)
        rows = jax.random.choice(row_key, len(buffer), (len(images),), replace=False)
        x = images + 0.005 * jax.random.normal(data_key, images.shape)
        starts = settings.start(buffer[rows], x, start_key)
        return starts, list(jax.random.split(chain_key, chain.steps))

    @eqx.filter_jit
    def move(model, x, key):
        gradient = jax.grad(lambda x: jax.vmap(model)(x).sum())(x)
        x = x - chain.step_size * jnp.clip(gradient, -chain.clip, chain.clip)
        return jnp.clip(
            x + chain.noise * jax.random.normal(key, x.shape), -chain.limit, chain.limit
        )

    @eqx.filter_jit
    def learn(state, samples, images, key):
        step = nb.make_step(
            settings.optimiser,
            lambda *_: samples,
            chain._replace(steps=0),
            settings.regularisation,
        )
        return step(state, images, key)[0]

    def loop(state, batches, keys):
        for images, key in zip(batches, keys):
            x, chain_keys = begin(state[2], images, key)
            for chain_key in chain_keys:
                x = move(state[0], x, chain_key)
            state = learn(state, x, images, key)
        return state

    return loop


MODELS = [
    Model(
        "PC", "01_predictive_coding", "pc_history",
        watch=("make_network", "per_example", "make_step"), uses=("train_as_textbooks_do",),
        textbook=predictive_coding,
    ),
    Model(
        "generative PC", "02_generative_pc", "generator",
        watch=("make_step",), uses=("infer", "top_down", "hebbian"), textbook=generative,
    ),
    Model(
        "BPC", "03_bidirectional_pc", "bpc_runs",
        watch=("make_step",), uses=("infer",), textbook=bidirectional,
    ),
    Model(
        "hybrid PC", "03_bidirectional_pc", "hybrid_runs",
        watch=("make_step",), uses=("infer",), textbook=bidirectional,
    ),
    Model("VAE", "04_variational_autoencoder", "history", watch=(), uses=(), textbook=None),
    Model(
        "EBM", "05_energy_based_model", "trained",
        watch=("make_step",), uses=(), textbook=energy_based,
    ),
]  # fmt: skip


def training_of(model: Model) -> Training:
    """Run what the notebook's training needs, and catch it where it would call `fit`."""
    calls = defaultdict(list)

    def watch(name):
        def around(function):
            signature = inspect.signature(function)

            def watched(*args, **kwargs):
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                calls[name].append(SimpleNamespace(**bound.arguments))
                return (
                    (bound.arguments["state"], None) if name == "fit" else function(*args, **kwargs)
                )

            return watched

        return around

    names = ("fit", *model.watch)
    path = ROOT / "notebooks" / f"{model.notebook}.ipynb"
    namespace = cells.definitions(
        path, model.made, *model.uses, wrap={name: watch(name) for name in names}
    )
    caught = {name: calls[name][-1] for name in names}  # of several, the last: 05's buffer
    run = caught.pop("fit")
    return Training(
        SimpleNamespace(**namespace), caught, run.step, run.state, run.data, run.key, run.batch_size
    )


def fed_by_fit(training: Training, iterations: int) -> tuple[list, list]:
    """The batches, as NumPy arrays, and the keys that `fit` would give to the step, in order."""

    def note(state, rows, key):
        return state, {"rows": rows, "key": jax.random.key_data(key)}

    rows = np.arange(len(jax.tree.leaves(training.data)[0]))
    _, seen = fit(
        note, jnp.zeros(()), rows, key=training.key, batch_size=training.batch_size,
        iterations=iterations, progress=False,
    )  # fmt: skip
    arrays = jax.tree.map(np.asarray, training.data)
    batches = [jax.tree.map(lambda a, r=r: a[r], arrays) for r in seen.metrics["rows"]]
    keys = [jax.random.wrap_key_data(jnp.asarray(k)) for k in seen.metrics["key"]]
    return batches, jax.block_until_ready(keys)


def ways_of(model: Model, training: Training) -> dict[str, Callable]:
    """Each way of training: from batches and keys to (state, seconds), compiling left out."""
    step = eqx.filter_jit(training.step)

    def loop_of_steps(state, batches, keys):
        for batch, key in zip(batches, keys):
            state, _ = step(state, batch, key)
        return state

    def timed(loop):
        def run(batches, keys):
            began = time.perf_counter()
            state = loop(training.state, batches, keys)
            jax.block_until_ready(eqx.filter(state, eqx.is_array))
            return state, time.perf_counter() - began

        return run

    def scan(batches, keys):
        state, history = fit(
            training.step, training.state, training.data, key=training.key,
            batch_size=training.batch_size, iterations=len(batches), progress=False,
        )  # fmt: skip
        return state, history.seconds

    loops = {"updates": timed(model.textbook(training))} if model.textbook else {}
    return loops | {"steps": timed(loop_of_steps), "scan": scan}


def weights_of(state) -> np.ndarray:
    """All weights in one row; the optimiser's numbers and what else the state holds left out."""
    model = state[0] if isinstance(state, tuple) else state
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def disagreement(training: Training, one, other) -> float:
    """The distance between two states' weights, in units of how far the weights moved."""
    start, one, other = (weights_of(state) for state in (training.state, one, other))
    moved = np.linalg.norm(other - start)
    return float(np.linalg.norm(one - other) / moved) if moved else np.inf


def check_agreement(name: str, training: Training, ways: dict[str, Callable]) -> float:
    """Compare the weights that all ways reach after the first iterations; returns ours' seconds.

    Raises ArithmeticError where two ways do not compute the same.
    """
    fed = fed_by_fit(training, FIRST)
    ours, seconds = ways["scan"](*fed)
    for way in ways.keys() - {"scan"}:
        gap = disagreement(training, ways[way](*fed)[0], ours)
        if not gap < AGREE:
            raise ArithmeticError(
                f"{name}: after {FIRST} iterations {WAYS[way]!r} and {WAYS['scan']!r} differ by "
                f"{100 * gap:.2g} % of what was learned; both must compute the same."
            )
    return seconds


def matmul_peak(seconds: float = 0.3) -> float:
    """GFLOP/s of the best of a few square matrix products in float32, each a median."""
    sizes = [512, 1024, 2048, *([4096, 8192] if jax.default_backend() == "gpu" else [])]
    best, product = 0.0, jax.jit(jnp.matmul)
    for size in sizes:
        a = jax.random.normal(jax.random.key(0), (size, size))
        jax.block_until_ready(product(a, a))
        times, end = [], time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < end:
            began = time.perf_counter()
            jax.block_until_ready(product(a, a))
            times.append(time.perf_counter() - began)
        best = max(best, 2e-9 * size**3 / float(np.median(times)))
    return best


def gigaflops_of(training: Training) -> float:
    """10⁹ operations in the matrix products of one iteration."""
    batch = jax.tree.map(lambda a: jnp.asarray(a[: training.batch_size]), training.data)
    return 1e-9 * matmul_flops(training.step, training.state, batch, training.key)


def quartiles(values) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    return tuple(float(q) for q in np.percentile(values, [50, 25, 75]))


def measure_model(model: Model, training: Training, effort: Effort) -> dict[str, Any]:
    """One row of the table: all ways of training one model, in turns."""
    ways = ways_of(model, training)
    trial = check_agreement(model.name, training, ways) / FIRST
    iterations = int(np.clip(effort.seconds / trial, FIRST, 300))
    fed, one = fed_by_fit(training, iterations), fed_by_fit(training, 1)
    times = {way: [] for way in ways}
    for _ in range(effort.repetitions + 1):
        for way, run in ways.items():
            seconds, counted = run(*fed)[1], iterations
            if way == "scan":  # a call draws the order of a whole epoch, whatever it needs of it
                seconds, counted = seconds - run(*one)[1], iterations - 1
            times[way].append(1e3 * seconds / counted)
    times = {way: np.array(values[1:]) for way, values in times.items()}  # the first compiles
    row = {"model": model.name, "notebook": model.notebook, "batch_size": training.batch_size}
    row |= {"iterations": iterations, "repetitions": effort.repetitions}
    for way, values in times.items():
        names = (f"{way}_ms", f"{way}_low", f"{way}_high")
        row |= dict(zip(names, quartiles(values), strict=True))
        if way != "scan":
            row[f"{way}_ratio"] = float(np.median(values / times["scan"]))
    gigaflops = gigaflops_of(training)
    row |= {"gflop": gigaflops, "gflops": 1e3 * gigaflops / row["scan_ms"]}
    return row


def variants(training: Training, points: dict[str, list[int]]) -> dict[tuple[str, int], Training]:
    """Notebook 01's training with one setting changed at a time, all else as it is."""
    nb, network = training.notebook, training.calls["make_network"]
    inference, optimiser = training.calls["per_example"], training.calls["make_step"].optimiser
    inputs, *hidden, outputs = network.sizes
    few = jax.tree.map(lambda a: a[:5000], training.data)  # `fit` copies them at each call
    changed = {}
    for quantity, values in points.items():
        for value in values:
            sizes, steps, batch_size = list(network.sizes), inference.steps, training.batch_size
            if quantity == "width":
                sizes = [inputs, *[value] * len(hidden), outputs]
            elif quantity == "depth":
                sizes = [inputs, *[hidden[0]] * value, outputs]
            elif quantity == "steps":
                steps = value
            elif value <= len(few[0]):
                batch_size = value
            else:  # the embedded digits are few
                continue
            model = nb.make_network(sizes, network.activation, key=network.key)
            step = nb.make_step(nb.per_example(inference.rate, steps), optimiser)
            state = nb.start(model, optimiser)
            changed[quantity, value] = training._replace(
                step=step, state=state, data=few, batch_size=batch_size
            )
    return changed


def measure_costs(training: Training, effort: Effort, peak: float) -> list[dict[str, Any]]:
    """Rows of bench_cost.csv: the time of one iteration, for each variant; sizes take turns."""
    rows = []
    chosen = variants(training, effort.points)
    for quantity in effort.points:
        runs = {value: made for (name, value), made in chosen.items() if name == quantity}
        ways = {value: ways_of(MODELS[0], made)["scan"] for value, made in runs.items()}
        counts = {}
        for value, run in ways.items():  # compiles, and says how many iterations are enough
            trial = run([None] * FIRST, None)[1] / FIRST
            counts[value] = int(np.clip(effort.seconds / 2 / trial, FIRST, 200))
            run([None] * counts[value], None)
        times = defaultdict(list)
        for _ in range(min(effort.repetitions, 5)):
            for value, run in ways.items():
                times[value].append(1e3 * run([None] * counts[value], None)[1] / counts[value])
        for value, made in runs.items():
            middle, low, high = quartiles(times[value])
            gigaflops = gigaflops_of(made)
            rows.append(
                {"quantity": quantity, "value": value, "ms": middle, "low": low, "high": high}
                | {"gflop": gigaflops, "at_peak_ms": 1e3 * gigaflops / peak}
            )
        print(f"cost against {quantity}: measured", flush=True)
    return rows


def power_law(x, y, tolerance: float = 0.1, least: int = 4) -> tuple[float, float, int] | None:
    """Slope, factor and first index of the longest run of points up to the last that is straight.

    Straight: a line through log x and log y misses no point of the run by more than `tolerance`,
    a fraction of y. None where not even the last `least` points are.
    """
    x, y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    for first in range(len(x) - least + 1):
        slope, intercept = np.polyfit(x[first:], y[first:], 1)
        missed = np.abs(y[first:] - slope * x[first:] - intercept)
        if missed.max() < np.log1p(tolerance):
            return float(slope), float(np.exp(intercept)), first
    return None


def curves(rows: list[dict]) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Columns of bench_cost.csv by quantity and kind of device, in the order of the panels."""
    found = {}
    for quantity, kind in itertools.product(PANELS, ("cpu", "gpu")):
        mine = [row for row in rows if (row["quantity"], row["kind"]) == (quantity, kind)]
        if mine:
            names = ("value", "ms", "low", "high", "at_peak_ms")
            found[quantity, kind] = {n: np.array([float(r[n]) for r in mine]) for n in names}
    return found


def draw(rows: list[dict], path: Path) -> None:
    """The cost figure: four panels, both axes logarithmic."""
    plot.use_style()
    figure, panels = plt.subplots(2, 2, figsize=(8.6, 6.8), layout="constrained")
    styles = {"cpu": (plot.BLUE, "o", plot.ORANGE), "gpu": (plot.GREEN, "s", plot.PURPLE)}
    for axes, (quantity, (title, label, expected)) in zip(panels.flat, PANELS.items()):
        for (name, kind), line in curves(rows).items():
            if name != quantity:
                continue
            colour, mark, fitted = styles[kind]
            x, y = line["value"], line["ms"]
            spread = [np.maximum(y - line["low"], 0), np.maximum(line["high"] - y, 0)]
            axes.errorbar(
                x, y, spread, fmt=mark, color=colour, ms=5, capsize=2, lw=1, zorder=3,
                label=f"measured, {kind.upper()}",
            )  # fmt: skip
            law = power_law(x, y)
            if law:
                slope, factor, first = law
                counted = np.polyfit(np.log(x[first:]), np.log(line["at_peak_ms"][first:]), 1)[0]
                axes.plot(
                    x[first:], factor * x[first:] ** slope, color=fitted,
                    label=f"slope {slope:.2f} from {x[first]:.0f} on (operations: {counted:.2f})",
                )  # fmt: skip
            axes.plot(
                x, line["at_peak_ms"], ":", color=plot.BLACK, lw=1.2,
                label="its products at the matmul peak",
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", title=title, ylabel="ms per iteration")
        axes.set_xlabel(f"{label}\n(for large values expect slope {expected})", fontsize=9)
        values = sorted({float(row["value"]) for row in rows if row["quantity"] == quantity})
        axes.set_xticks(values)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.legend(fontsize=8, loc="upper left")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    figure.suptitle("What one iteration of predictive coding costs", x=0.01, ha="left", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def slopes_in_words(rows: list[dict]) -> str:
    words = []
    for (quantity, kind), line in curves(rows).items():
        law = power_law(line["value"], line["ms"])
        name, where = PANELS[quantity][0].lower(), "" if kind == "cpu" else " (GPU)"
        said = f"slope {law[0]:.2f} from {line['value'][law[2]]:.0f} on" if law else "no power law"
        words.append(f"{name}{where} {said}")
    return ", ".join(words)


# --- What was measured, on file and on the pages. ---


def conditions() -> dict[str, str]:
    """Where, when and on what: the columns that every row begins with."""
    versions = ", ".join(f"{name} {version}" for name, version in session.versions().items())
    return {
        "kind": "gpu" if jax.default_backend() == "gpu" else "cpu",
        "device": session.device(),
        "date": datetime.date.today().isoformat(),
        "dataset": data.course_dataset(),
        "versions": versions,
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict], kept_from: Path) -> list[dict[str, str]]:
    """Write new rows, and after them those of the other kind of device; returns all, as text."""
    rows = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    kinds = {row["kind"] for row in rows}
    rows += [row for row in read_rows(kept_from) if row["kind"] not in kinds]
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return read_rows(path)


def table(rows: list[dict[str, str]], folder: str) -> str:
    """The Markdown table of bench.csv's rows; `folder` leads to the notebooks."""

    def cell(row, way):
        if not row.get(f"{way}_ms"):
            return "–"
        middle, low, high = (float(row[f"{way}_{part}"]) for part in ("ms", "low", "high"))
        return f"{middle:.3g} ({low:.3g} to {high:.3g})"

    def ratio(row, way):
        return f"{float(row[f'{way}_ratio']):.1f} ×" if row.get(f"{way}_ratio") else "–"

    lines = [
        f"| Model (notebook) | Device | {' | '.join(WAYS.values())} | Ours is faster by "
        "| GFLOP/s | of the peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        link = f"[{row['notebook'][:2]}]({folder}{row['notebook']}.ipynb)"
        share = 100 * float(row["gflops"]) / float(row["peak"])
        lines.append(
            f"| {row['model']} ({link}) | {row['device']} "
            f"| {' | '.join(cell(row, way) for way in WAYS)} "
            f"| {ratio(row, 'updates')}, {ratio(row, 'steps')} "
            f"| {float(row['gflops']):.3g} | {share:.0f} % |"
        )
    return "\n".join(lines)


def circumstances(rows: list[dict[str, str]]) -> str:
    """A sentence or two for each kind of device on how the rows were measured."""
    first = {row["kind"]: row for row in reversed(rows)}
    words = []
    for kind in ("cpu", "gpu"):
        if kind not in first:
            words.append(f"No {kind.upper()} was at hand: not measured there.")
            continue
        row = first[kind]
        words.append(
            f"{row['device']}, measured on {row['date']}: {row['versions']}; data: "
            f"{row['dataset']}; {row['repetitions']} repetitions in turns; the best matrix product "
            f"in the same run reached {float(row['peak']):.3g} GFLOP/s; load average before the "
            f"run {row['load'] or 'unknown'}."
        )
    return " ".join(words)


def block(page: str, rows: list[dict[str, str]], costs: list[dict[str, str]]) -> str:
    """What stands between a page's bench markers."""
    parts = [
        "Milliseconds for one iteration of training (one batch), with the notebooks' own models "
        "and settings: median and, in brackets, the quartiles.",
        table(rows, PAGES[page]),
        circumstances(rows),
    ]
    if page == "README.md":
        parts.append("What each column means, and what width, depth, inference steps and batch "
                     "size cost: [status page](pages/status.md).")  # fmt: skip
        return "\n\n".join(parts)
    sizes = next(row["batch_size"] for row in rows)
    parts += [
        "\n".join([
            f"- *{WAYS['updates']}*, as textbooks write it: the first guess, each step of "
            "inference (of Langevin dynamics for the EBM) and the step of learning are compiled "
            "one by one, and Python calls them in turn. Batches are NumPy arrays on the host, cut "
            "beforehand. For PC it is notebook 01's own loop, which also guesses and takes the "
            "loss operation by operation. Generative PC infers with error units there and with "
            "lateral weights in ours. A VAE has no inner loop.",
            f"- *{WAYS['steps']}*: one iteration is one compiled function, called once for each "
            "of the same batches.",
            f"- *{WAYS['scan']}*: `labkit.fit`. The data are in device memory, and one compiled "
            "scan runs over the batches. What a call costs once, above all drawing the order of a "
            "whole epoch, is measured with a single iteration and left out.",
            "- *Faster by*: the two loops against ours, each a median of ratios within a "
            "repetition. All ways start from the same weights and see the same batches and random "
            f"keys; the run stops where their weights after {FIRST} iterations differ by "
            f"{100 * AGREE:g} % of what was learned, or more. Compiling is not timed.",
            "- *GFLOP/s*: 10⁹ additions and multiplications a second in matrix products, and in "
            "nothing else, counted from the traced code. *Of the peak*: as a share of the best of "
            "a few large square products in float32.",
        ]),
        "**What it costs.** Notebook 01's network, settings of section 8 (two hidden layers of "
        f"300, 6 inference steps, batches of {sizes}), one setting changed at a time. A line is "
        "fitted where the last four points or more lie on one, within a tenth; below that, what "
        "does not grow (starting each operation, updating the weights) has its share. Beside each "
        "slope stands that of the counted operations over the same points. Dotted: the time that "
        "the products alone would take at the peak.",
        f"![Time of one iteration against width, depth, inference steps and batch size, all axes "
        f"logarithmic: {slopes_in_words(costs)}.](../{RECORDED}/bench.png)",
    ]  # fmt: skip
    return "\n\n".join(parts)


def fill(text: str, new: str) -> str:
    """The text with `new` between its bench markers; ValueError where they are not there once."""
    text, found = REGION.subn(lambda _: f"<!-- bench -->\n{new}\n<!-- /bench -->", text)
    if found != 1:
        raise ValueError(f"the page must have <!-- bench --> and <!-- /bench --> once, has {found}")
    return text


def write_pages(out: Path, rows: list[dict[str, str]], costs: list[dict[str, str]]) -> None:
    for page in PAGES:
        source = out / page if (out / page).is_file() else ROOT / page
        text = fill(source.read_text("utf-8"), block(page, rows, costs))
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).write_text(text, "utf-8")


def run(out: Path, effort: Effort) -> None:
    """Measure everything and write it under `out`."""
    about = conditions()
    if about["load"] and float(about["load"]) > 0.5:
        print(f"load average {about['load']}: this machine is busy, and times will show it")
    trainings = {}
    for model in MODELS:
        trainings[model.name] = training_of(model)
    about["dataset"] = data.course_dataset()
    peaks, rows = [matmul_peak()], []
    for model in MODELS:
        rows.append(about | measure_model(model, trainings[model.name], effort))
        loops = "  ".join(f"{way} {rows[-1][f'{way}_ms']:.2f}" for way in WAYS
                          if f"{way}_ms" in rows[-1])  # fmt: skip
        print(f"{model.name:14} ms per iteration: {loops}", flush=True)
    peaks.append(matmul_peak())
    rows = [row | {"peak": max(peaks)} for row in rows]
    costs = [about | row for row in measure_costs(trainings["PC"], effort, max(peaks))]
    stored = ROOT / RECORDED
    rows = write_rows(out / RECORDED / "bench.csv", rows, stored / "bench.csv")
    costs = write_rows(out / RECORDED / "bench_cost.csv", costs, stored / "bench_cost.csv")
    draw(costs, out / RECORDED / "bench.png")
    write_pages(out, rows, costs)
    print(circumstances(rows))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="try everything, measure nothing")
    parser.add_argument("--out", type=Path, help="write there, not into the repository")
    chosen = parser.parse_args(arguments)
    matplotlib.use("agg")
    jax.config.update("jax_default_matmul_precision", "float32")  # as session.start does
    out = chosen.out or (ROOT / "_build" / "bench" if chosen.quick else ROOT)
    if out == ROOT:  # the pages show MNIST, or nothing new
        os.environ.setdefault("LABKIT_DATASET", "mnist")
    with tempfile.TemporaryDirectory() as cache:  # each training is compiled once a run
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        try:
            run(out, QUICK if chosen.quick else FULL)
        finally:
            jax.config.update("jax_compilation_cache_dir", None)


if __name__ == "__main__":
    main()
