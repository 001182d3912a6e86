"""Time an iteration of each training: `python -m tools.bench [--quick] [--out FOLDER]`.

Writes bench.csv, bench_cost.csv, bench.png and the table of status.md, in pages/ or under `--out`;
rows of the other kind of device are kept. Measure on an idle machine; `--quick` only tries all.

Columns: kind, device, date, dataset, versions; load, the load average before; peak, GFLOP/s of the
best of many products; model, notebook, batch_size, way; iterations in a turn, turns; wall_ms and
cpu_ms, medians for one iteration, of all threads; wall_low, wall_high, quartiles; ratio to ours,
median over turns; gflop, 10⁹ operations in products. Costs: the `quantity` that has this `value`.
"""

import argparse
import csv
import datetime
import inspect
import io
import math
import os
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from labkit import data, files, plot, session
from labkit.fit import fit
from tools import ROOT, fill
from tools.slice import definitions

try:
    import torch
except ImportError:
    torch = None

STEPS, OURS = "loop of steps", "one scan (ours)"
clock = lambda: np.array([time.perf_counter(), time.process_time()])  # wall, and all threads
PANELS = {  # what the axis says, and the values
    "width": ("units in each hidden layer", [64, 128, 256, 512, 1024, 2048]),
    "depth": ("hidden layers", [1, 2, 4, 8, 16]),
    "steps": ("inference steps", [1, 4, 16, 64, 256]),
    "batch": ("images in a batch", [16, 64, 256, 1024]),
}


def training_of(notebook: str, made: str, *uses: str) -> SimpleNamespace:
    """Catch the training that makes `made` in a notebook, or is it, where it would call `fit`.

    Returns the arguments of `fit` by name (step, state, data, key, batch_size), and with them `nb`,
    the names of the notebook, and `calls`, the last arguments of functions that are watched.
    """
    calls = {}

    def watched(name, function, *args, **kwargs):
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        calls[name] = SimpleNamespace(**bound.arguments)
        return (calls[name].state, None) if name == "fit" else function(*args, **kwargs)

    watch = "fit", "make_network", "make_step", "per_example"
    wrap = {name: partial(partial, watched, name) for name in watch}
    nb = definitions(ROOT / "notebooks" / f"{notebook}.ipynb", made, *uses, wrap=wrap)
    if inspect.isfunction(nb[made]):  # of a training that is recorded
        nb[made]()
    return SimpleNamespace(**vars(calls["fit"]), nb=SimpleNamespace(**nb), calls=calls)


def changed(training: SimpleNamespace, **changes) -> SimpleNamespace:
    return SimpleNamespace(**vars(training) | changes)


def run_fit(training: SimpleNamespace, iterations: int, **settings) -> tuple:
    return fit(training.step, training.state, training.data, key=training.key,
               batch_size=training.batch_size, iterations=iterations, progress=False,
               **settings)  # fmt: skip


def fed_by_fit(training: SimpleNamespace, iterations: int) -> tuple[list, list]:
    """The batches and keys that `fit` gives to the step, in order."""
    note = lambda state, rows, key: (state, {"rows": rows, "key": jax.random.key_data(key)})
    arrays = jax.tree.map(np.asarray, training.data)
    rows = np.arange(len(jax.tree.leaves(arrays)[0]))
    seen = run_fit(changed(training, step=note, state=jnp.zeros(()), data=rows), iterations)[1]
    keys = [jax.random.wrap_key_data(jnp.asarray(k)) for k in seen.metrics["key"]]
    return [jax.tree.map(lambda a, r=r: a[r], arrays) for r in seen.metrics["rows"]], keys


def weights_of(state) -> list[np.ndarray]:
    """All weights of the model, without the optimiser's numbers and what else the state holds."""
    model = state[0] if isinstance(state, tuple) else state
    return jax.device_get(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def differences(training: SimpleNamespace, loops: Callable, iterations: int = 3) -> dict:
    """How far each loop's weights are from those of `fit`, in parts of how far these moved.

    In float64: in float32 the first steps of Adam turn rounding into steps of full length where a
    gradient is zero but for rounding. Raises ArithmeticError if one is above 1e-6.
    """
    with jax.enable_x64(True):
        few = jax.tree.map(lambda a: a[:5000], training.data)
        wide = lambda a: jnp.asarray(a, float) if getattr(a, "dtype", None) == np.float32 else a
        state, data = jax.tree.map(wide, (training.state, few))
        training = changed(training, state=state, data=data)
        flat = lambda weights: np.concatenate([np.ravel(w) for w in weights])
        ours = flat(weights_of(run_fit(training, iterations)[0]))
        moved, found = np.linalg.norm(ours - flat(weights_of(state))), {}
        for way, loop in loops.items():
            theirs = flat(loop(state, *fed_by_fit(training, iterations)))
            found[way] = float(np.linalg.norm(theirs - ours) / moved)
            if not found[way] < 1e-6:
                raise ArithmeticError(f"{way!r} and `fit` differ by {found[way]:.2g}, in float64")
    return found


def loop_of_steps(step: Callable) -> Callable:
    step = eqx.filter_jit(step)

    def loop(state, batches, keys):
        for batch, key in zip(batches, keys):
            state, _ = step(state, batch, key)
        return weights_of(state)

    return loop


def energy_based(training: SimpleNamespace) -> dict[str, Callable]:
    """The notebook's own step, with XLA's convolution for windows and a matrix product."""
    steps, optimiser = loop_of_steps(training.step), training.calls["make_step"].optimiser
    form = jax.tree.structure(training.nb.WithLax(key=jax.random.key(0)))

    def loop(state, batches, keys):
        model = jax.tree.unflatten(form, jax.tree.leaves(state[0]))
        start = optimiser.init(eqx.filter(model, eqx.is_array))
        return steps((model, start, state[2]), batches, keys)

    return {"loop of steps, `lax.conv`": loop}


def predictive_coding(training: SimpleNamespace) -> dict[str, Callable | None]:
    """Notebook 01's own loop of updates, and its training in NumPy and PyTorch; None: not there."""
    nb, (rate, steps) = training.nb, vars(training.calls["per_example"]).values()
    iterations = nb.EPOCHS * (len(nb.train[0]) // training.batch_size)
    learning_rate = lambda i: 5e-4 * (1 + np.cos(np.pi * i / iterations))
    optimiser, train = training.calls["make_step"].optimiser, nb.train_as_textbooks_do
    descent = optax.sgd(rate * training.batch_size)

    def textbook(state, batches, keys):
        return weights_of(train(state[0], batches, descent, steps, optimiser))

    def in_numpy(state, batches, keys):
        parameters = [np.array(a) for a in weights_of(state)]
        means, squares = ([0 * p for p in parameters] for _ in range(2))
        for i, batch in enumerate(batches):
            gradients = gradients_by_hand(parameters, *batch, rate, steps)
            for p, g, m, v in zip(parameters, gradients, means, squares):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p *= 1 - 0.2 * learning_rate(i)
                scaled = m / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
                p -= learning_rate(i) / (1 - 0.9 ** (i + 1)) * scaled
        return parameters

    def in_torch(gradients_of, state, batches, keys):
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        parameters = [torch.tensor(np.asarray(a), device=device) for a in weights_of(state)]
        adamw = torch.optim.AdamW(parameters, weight_decay=0.2, fused=True)
        for i, batch in enumerate(batches):
            batch = [torch.from_numpy(a).to(device) for a in batch]
            for p, g in zip(parameters, gradients_of(parameters, *batch, rate, steps)):
                p.grad = g
            adamw.param_groups[0]["lr"] = learning_rate(i)
            adamw.step()
        return [p.cpu().numpy() for p in parameters]

    loops = {"loop of updates": textbook, "NumPy by hand": in_numpy}
    loops |= dict.fromkeys(["PyTorch", "PyTorch, compiled"])
    if torch:
        loops["PyTorch"] = partial(in_torch, gradients_by_autograd)
        loops["PyTorch, compiled"] = partial(in_torch, torch.compile(gradients_by_hand))
    return loops


def gradients_by_hand(parameters: list, x, y, rate: float, steps: int) -> list:
    """Notebook 01's inference and gradients, in operators that NumPy's arrays and torch's have."""
    weights, biases, relu = parameters[::2], parameters[1::2], lambda a: a * (a > 0)
    first, z = x @ weights[0].T + biases[0], [x]  # what the image predicts never changes
    for W, b in zip(weights[:-1], biases[:-1]):
        z.append(relu(z[-1] @ W.T + b if len(z) > 1 else first))
    for step in range(steps + 1):
        sums = [first, *(a @ W.T + b for a, W, b in zip(z[1:], weights[1:], biases[1:]))]
        errors = [here - relu(a) for here, a in zip(z[1:], sums)]
        slopes = [e * (a > 0) for e, a in zip(errors, sums)] + [y - sums[-1]]
        if step < steps:
            moves = [s @ W - e for s, W, e in zip(slopes[1:], weights[1:], errors)]
            z = [x, *(here + rate * move for here, move in zip(z[1:], moves))]
    pairs = [(-(s.T @ a) / len(x), -s.sum(0) / len(x)) for s, a in zip(slopes, z)]
    return [gradient for pair in pairs for gradient in pair]


def gradients_by_autograd(parameters: list, x, y, rate: float, steps: int) -> list:
    """The same as users of PyTorch write it: an energy, and autograd."""
    parameters = [p.detach().requires_grad_() for p in parameters]
    weights, biases, linear = parameters[::2], parameters[1::2], torch.nn.functional.linear

    def energy(hidden):
        *below, top = map(linear, [x, *hidden], weights, biases)
        errors = [z - torch.relu(a) for z, a in zip(hidden, below)] + [y - top]
        return 0.5 * sum((e**2).sum() for e in errors)

    hidden = []
    for W, b in zip(weights[:-1], biases[:-1]):
        hidden.append(torch.relu(linear([x, *hidden][-1], W, b)).detach().requires_grad_())
    for _ in range(steps):
        moves = torch.autograd.grad(energy(hidden), hidden)
        hidden = [(a - rate * g).detach().requires_grad_() for a, g in zip(hidden, moves)]
    return torch.autograd.grad(energy(hidden) / len(x), parameters)


MODELS = {  # what the training makes in its notebook, what else the loops need of it, the loops
    "PC": ("01_predictive_coding", "pc_history", ["train_as_textbooks_do"], predictive_coding),
    "generative PC": ("02_generative_pc", "generator", [], lambda training: {}),
    "BPC": ("03_bidirectional_pc", "bpc_history", [], lambda training: {}),
    "hybrid PC": ("03_bidirectional_pc", "train_hybrid", [], lambda training: {}),
    "VAE": ("04_variational_autoencoder", "watched", [], lambda training: {}),
    "EBM": ("05_energy_based_model", "trained", ["WithLax"], energy_based),
}


def peak_gflops(seconds: float) -> float:
    """GFLOP/s of the best of many square products in float32."""
    best, product = 0.0, jax.jit(jnp.matmul)
    for size in [512, 1024, 2048, *([4096, 8192] if jax.default_backend() == "gpu" else [])]:
        a, end = jnp.ones((size, size)), time.perf_counter() + seconds
        jax.block_until_ready(product(a, a))
        while best == 0 or time.perf_counter() < end:
            began = time.perf_counter()
            jax.block_until_ready(product(a, a))
            best = max(best, 2e-9 * size**3 / (time.perf_counter() - began))
    return best


def product_flops(function, *arguments) -> int:
    """Operations in the matrix products of the program that XLA makes of a function for a CPU.

    XLA's own `cost_analysis` counts a loop's body once; this counts it as often as it runs.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        text = eqx.filter_jit(function).lower(*arguments).compile().compiled.as_text()
    shapes = {name: [int(n) for n in dims.split(",") if n]
              for name, dims in re.findall(r"%(\S+) = \w+\[([\d,]*)\]", text)}  # fmt: skip
    flops, current = {}, ""
    for line in text.splitlines():  # a computation comes after those that it calls
        if head := re.match(r"(?:ENTRY )?%(\S+) .*\{$", line):
            current = head[1]
            flops[current] = 0
        if dot := re.search(r"%(\S+) = .* dot\(%([^,]+), .*lhs_contracting_dims=\{([\d,]+)", line):
            inner = math.prod(shapes[dot[2]][int(i)] for i in dot[3].split(","))
            flops[current] += 2 * math.prod(shapes[dot[1]]) * inner
        turns = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        for called in re.findall(r"(?:calls|to_apply|body)=%([\w.-]+)", line):
            if " while(" in line and not turns and flops[called]:
                raise ValueError("products in a loop of unknown length: count them by hand")
            flops[current] += flops[called] * (int(turns[1]) if turns else 1)
    return flops[current]


def timed(training: SimpleNamespace, others: dict, iterations: int, turns: int) -> dict[str, dict]:
    """The columns of each way. The ways take turns: the others run where `fit` would evaluate."""
    fed, times = fed_by_fit(training, iterations), {way: [] for way in [OURS, *others]}
    began = clock()

    def take_turns(state) -> dict:
        nonlocal began
        times[OURS].append(clock() - began)
        for way, loop in others.items():
            began = clock()
            loop(training.state, *fed)
            times[way].append(clock() - began)
        began = clock()
        return {}

    run_fit(training, iterations * (turns + 1), every=iterations, evaluate=take_turns)
    columns, each = {}, {way: 1e3 * np.array(s[1:]).T / iterations for way, s in times.items()}
    for way, (wall, cpu) in each.items():  # without the first turn, which compiles
        low, middle, high = np.percentile(wall, [25, 50, 75])
        columns[way] = {"way": way, "iterations": iterations, "turns": turns, "wall_ms": middle}
        columns[way] |= {"wall_low": low, "wall_high": high, "cpu_ms": np.median(cpu)}
        columns[way]["ratio"] = np.median(wall / each[OURS][0])
    return columns


def costs(training: SimpleNamespace, points: int | None, iterations: int, turns: int) -> list:
    """Rows for notebook 01's training with one setting changed at a time, all else as it is."""
    nb, network, rows = training.nb, training.calls["make_network"], []
    optimiser = training.calls["make_step"].optimiser
    few = jax.tree.map(lambda a: a[:5000], training.data)
    for quantity, (_, values) in PANELS.items():
        for value in values[:points]:
            now = {"width": 300, "depth": 2, "steps": 6, "batch": 128} | {quantity: value}
            sizes = [784, *[now["width"]] * now["depth"], 10]
            model = nb.make_network(sizes, network.activation, key=network.key)
            step = nb.make_step(nb.per_example(0.05, now["steps"]), optimiser)
            changes = {"step": step, "data": few, "batch_size": now["batch"]}
            variant = changed(training, state=nb.start(model, optimiser), **changes)
            ms = timed(variant, {}, iterations, turns)[OURS]
            rows.append({"quantity": quantity, "value": value} | ms)
    return rows


def conditions() -> dict[str, str]:
    """The columns with which every row begins: on what, when and with which versions."""
    kind, cpuinfo = "gpu" if jax.default_backend() == "gpu" else "cpu", Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "")
    processor = [*names, platform.processor(), platform.machine()][0]
    versions = session.versions() | ({"torch": torch.__version__} if torch else {})
    device = session.device() + (f", {processor}" if kind == "cpu" else "")
    versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    about = {"kind": kind, "device": device, "date": datetime.date.today().isoformat()}
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return about | {"versions": versions, "load": load}


def read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) if path.is_file() else []


def write_rows(path: Path, rows: list[dict], stored: Path) -> list[dict[str, str]]:
    """Write rows, and after them the stored ones of the other kind of device; returns all."""
    rows = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    rows += [row for row in read_rows(stored) if row["kind"] != rows[0]["kind"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(k for r in rows for k in r), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with files.whole(path) as file:
        file.write(text.getvalue().encode())
    return read_rows(path)


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table for each kind of device, above it the circumstances."""
    parts = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        about = "{device}, {date}: {versions}; data: {dataset}; {turns} turns; best product {peak} "
        parts.append((about + "GFLOP/s; load before {load}.").format(**mine[-1]))
        lines = ["| Model | Way | Wall (ms) | CPU (ms) | Wall, ours = 1 | Of the peak |",
                 "|---|---|---|---|---|---|"]  # fmt: skip
        for row in mine:
            model = f"[{row['model']}](../notebooks/{row['notebook']}.ipynb)"
            cells = ["–"] * 4
            if row["wall_ms"]:
                share = 100e3 * float(row["gflop"]) / float(row["wall_ms"]) / float(row["peak"])
                spread = "{wall_ms} ({wall_low} to {wall_high})".format(**row)
                cells = [spread, row["cpu_ms"], f"{float(row['ratio']):.2f}", f"{share:.0f} %"]
            lines.append(f"| {model} | {row['way']} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """What one iteration of PC costs, against each quantity, on logarithmic axes."""
    plot.use_style()
    figure, panels = plt.subplots(1, len(PANELS), figsize=(10, 2.8), layout="constrained")
    for axes, (quantity, (label, _)) in zip(panels, PANELS.items()):
        for kind, colour in (("cpu", plot.BLUE), ("gpu", plot.GREEN)):
            mine = [r for r in rows if (r["kind"], r["quantity"]) == (kind, quantity)]
            values = [int(r["value"]) for r in mine]
            if mine:
                ms = [float(r["wall_ms"]) for r in mine]
                axes.loglog(values, ms, "o-", color=colour, ms=4, label=kind.upper())
                axes.set_xticks(values, values, size=8)
        axes.set(xlabel=label, ylabel="ms for one iteration")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    panels[0].legend()
    with files.whole(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="try everything, measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT, help="write there, not into the course")
    chosen = parser.parse_args(arguments)
    seconds, turns = (0.0, 1) if chosen.quick else (0.2, 7)
    if chosen.out == ROOT:
        os.environ.setdefault("LABKIT_DATASET", "mnist")  # the pages show MNIST, or nothing new
    jax.config.update("jax_default_matmul_precision", "float32")  # as session.start does
    jax.config.update("jax_compilation_cache_dir", str(files.cache() / "jax"))
    about, rows, of_pc = conditions(), [], []
    about["peak"] = peak = peak_gflops(seconds)
    for name, (notebook, made, uses, loops_of) in MODELS.items():
        training = training_of(notebook, made, *uses)
        about["dataset"] = data.course_dataset()
        others = loops_of(training) | {STEPS: loop_of_steps(training.step)}
        there = {way: loop for way, loop in others.items() if loop}
        gaps = differences(training, there)
        batch = jax.tree.map(lambda a, n=training.batch_size: jnp.asarray(a[:n]), training.data)
        gflop = 1e-9 * product_flops(training.step, training.state, batch, training.key)
        iterations = int(np.clip(seconds * 0.3 * peak / gflop, 3, 200))
        columns = timed(training, there, iterations, turns)
        same = about | {"model": name, "notebook": notebook, "batch_size": training.batch_size}
        for way in [*others, OURS]:
            rows.append(same | {"gflop": gflop} | columns.get(way, {"way": way, "wall_ms": ""}))
        print(name, {way: f"{c['wall_ms']:.3g} ms" for way, c in columns.items()},
              f"largest difference {max(gaps.values()):.0e}", flush=True)  # fmt: skip
        if name == "PC":
            some = (2, 3, 1) if chosen.quick else (None, 10, 3)
            of_pc = [about | row for row in costs(training, *some)]
    pages, stored = chosen.out / "pages", ROOT / "pages"
    rows = write_rows(pages / "bench.csv", rows, stored / "bench.csv")
    of_pc = write_rows(pages / "bench_cost.csv", of_pc, stored / "bench_cost.csv")
    draw(of_pc, pages / "bench.png")
    page = fill((stored / "status.md").read_text("utf-8"), "bench", table(rows))
    with files.whole(pages / "status.md") as file:
        file.write(page.encode())
