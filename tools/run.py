"""Run notebooks, each from a clean kernel on MNIST, and store what they show.

usage: python -m tools.run [--times | --retrain] [--seed N | --gpu] [--digits] [--merge] [PATH ...]

The outputs are stored in place; a second run changes no byte. Cells tagged `timing` print measured
times, which vary: their stored outputs are kept if the new ones say the same and no number moved by
more than a factor of two. The figure of the cell tagged `picture` goes to labkit/pictures, from
where the setup cell shows it. What a notebook saves, and what `check.result` saw, goes to
_build/results/NOTEBOOK/0. `--times`, on an idle machine, stores the times of this run: in these
cells, and in labkit/times.toml how long the notebook and its sections took, in how much memory.

`--retrain` stores nothing in the notebook; it runs all that `answers.measured` has recorded, and
puts new records into labkit/compare/recorded, each with a mark of the code that it depends on.
`--seed N` (1, 2, ...) runs all that as well, with other random numbers, and stores nothing but the
results, in _build/results/NOTEBOOK/N; `--digits` does so on the small digits, in .../digits-N; a
failing cell is only reported. `--merge` makes labkit/compare/reference of the results of these
notebooks with all seeds that are there; times are those of seed 0.
`--gpu` stores times and results only: the outputs in the notebooks are those of a CPU.
"""

import argparse
import base64
import datetime
import hashlib
import inspect
import io
import json
import os
import re
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import jax
import nbformat
import numpy as np
from nbclient import NotebookClient

from labkit import files, session
from tools import ROOT, notebooks, read, slice, stamp, tags, write

TIMES = ROOT / "labkit" / "times.toml"
PICTURES = ROOT / "labkit" / "pictures"
REFERENCE = ROOT / "labkit" / "compare" / "reference"
RESULTS = ROOT / "_build" / "results"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
ENVIRONMENT = {"LABKIT_DATASET": "mnist", "LABKIT_STATIC": "1", "TQDM_DISABLE": "1"}


class Run(NamedTuple):
    """Seconds in all, the kernel's start included, and of each section; GiB at most, if known."""

    seconds: float
    sections: dict[str, float]
    memory: float | None


class Watch(NotebookClient):
    """Runs a notebook; adds up the seconds of each section, keeps the kernel's peak memory."""

    def __init__(self, notebook, folder: Path, **options):
        self.sections, self.memory, self.began, self.headings = {}, None, 0.0, ["Setup"]
        for cell in notebook.cells:
            found = re.findall(r"^## (.+)$", cell.source, re.M)
            new = found[0] if cell.cell_type == "markdown" and found else self.headings[-1]
            self.headings.append(new)
        super().__init__(
            notebook, timeout=3600, kernel_name="python3", record_timing=False,
            store_widget_state=False, resources={"metadata": {"path": str(folder)}}, **options,
        )  # fmt: skip
        self.on_cell_start, self.on_cell_executed = self.start, self.stop

    def start(self, cell, cell_index):
        self.began = time.perf_counter()

    def stop(self, cell, cell_index, execute_reply):
        heading, took = self.headings[cell_index + 1], time.perf_counter() - self.began
        self.sections[heading] = self.sections.get(heading, 0.0) + took
        status = Path(f"/proc/{self.km.provisioner.pid}/status")
        if status.is_file():
            self.memory = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**20


def shift_seeds(shift: int) -> None:
    """Run in a kernel first: other random numbers wherever the notebook's own code makes a key.

    What labkit asks for (its split of the small digits, its judge, its checks) stays what it is.
    """
    import sys

    import jax
    import numpy

    from labkit import data

    def shifted(original):
        def new(*args, **kwargs):
            caller, through = sys._getframe(1), ("jax", "numpy", "equinox", "functools")
            while caller.f_globals.get("__name__", "").split(".")[0] in through:
                caller = caller.f_back  # as in jax.vmap(jax.random.key)(seeds)
            if caller.f_globals.get("__name__") == "__main__":
                if "seed" in kwargs:
                    kwargs["seed"] = kwargs["seed"] + shift
                elif args:
                    args = (args[0] + shift, *args[1:])
            return original(*args, **kwargs)

        return new

    jax.random.key, jax.random.PRNGKey = shifted(jax.random.key), shifted(jax.random.PRNGKey)
    numpy.random.default_rng = shifted(numpy.random.default_rng)
    data.batches = shifted(data.batches)


def execute(path: Path, environment: dict[str, str], *, seed=0, store=True, times=False) -> Run:
    """Run one notebook, in place with `store`, with the times measured if asked; what it took.

    A failing cell raises and leaves the file as it was; with a seed, or on digits, it is printed.
    """
    notebook = read(path)
    old = [list(cell.get("outputs", [])) for cell in notebook.cells]
    if seed:
        first = f"{inspect.getsource(shift_seeds)}\n\nshift_seeds({1000 * seed})"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    lenient = seed > 0 or environment.get("LABKIT_DATASET") == "digits"
    client = Watch(notebook, path.parent, allow_errors=lenient)
    began = time.perf_counter()
    client.execute(env=os.environ | ENVIRONMENT | environment)
    seconds = time.perf_counter() - began
    for output in (o for cell in notebook.cells if lenient for o in cell.get("outputs", [])):
        if output.output_type == "error":
            print(f"{path.name}, seed {seed}: {output.evalue}", flush=True)
    if store and not seed:
        for cell, before in zip(notebook.cells, old, strict=True):
            if cell.cell_type == "code":
                cell.outputs = merge_streams(cell.outputs)
                if "timing" in tags(cell) and not times:
                    cell.outputs = before if same_words(before, cell.outputs) else cell.outputs
        show_picture(notebook, path.stem)
        stamp.stamp_notebook(notebook, path.stem)
        write(path, notebook)
    return Run(seconds, client.sections, client.memory)


def show_picture(notebook, name: str) -> None:
    """Keep the figure of the cell tagged `picture`; put it into the setup cell's output."""
    tagged = {tag: cell for cell in notebook.cells for tag in tags(cell)}
    picture = next(o for o in tagged["picture"].outputs if "image/png" in o.get("data", {}))
    encoded, alt = picture.data["image/png"], picture.metadata["image/png"]["alt"]
    with files.whole(PICTURES / f"{name}.png") as file:
        file.write(base64.b64decode(encoded))
    setup = tagged["setup"]
    shown = nbformat.v4.new_output(
        "display_data", {"image/png": encoded, "text/plain": "<Figure>"},
        metadata={"image/png": {"alt": alt}},
    )  # fmt: skip
    setup.outputs = [o for o in setup.outputs if "image/png" not in o.get("data", {})] + [shown]


def merge_streams(outputs: list) -> list:
    """Join neighbouring outputs of one stream: how they were cut up depends on the moment."""
    merged = []
    for output in outputs:
        if merged and output.get("name", "") == merged[-1].get("name", 0):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def same_words(*both: list) -> bool:
    """Whether two outputs differ in nothing but numbers, and in those by less than a factor 2."""
    plain = lambda output: output.get("text") or output.get("data", {}).get("text/plain", "")
    texts = ["\n".join(map(plain, outputs)) for outputs in both]
    if len(both[0]) != len(both[1]) or len({NUMBER.sub("#", text) for text in texts}) > 1:
        return False
    pairs = zip(*([float(n) for n in NUMBER.findall(text)] for text in texts), strict=True)
    return all(a == b or max(a, b) < 2 * min(a, b) for a, b in pairs)


def write_times(name: str, run: Run, kind: str) -> None:
    """Put what one notebook took into labkit/times.toml; sections are kept for the CPU only."""
    old = TIMES.read_text("utf-8")
    times = tomllib.loads(old)
    entry = {"seconds": round(run.seconds), "device": session.device(), "dataset": "MNIST"}
    entry["versions"] = ", ".join(" ".join(pair) for pair in session.versions().items())
    if run.memory is not None:
        entry["memory"] = round(run.memory, 1)
    times.setdefault(name, {})[kind] = entry | {"date": datetime.date.today()}
    if kind == "cpu":
        times[name]["sections"] = {k: round(v, 1) for k, v in run.sections.items()}
    lines = [line for line in old.splitlines() if line.startswith("#")]
    for name, kinds in sorted(times.items()):
        for kind, entry in sorted(kinds.items()):
            lines += ["", f"[{name}.{kind}]"]
            lines += [f"{_toml(k, key=True)} = {_toml(v)}" for k, v in entry.items()]
    write(TIMES, "\n".join(lines) + "\n")


def _toml(value, key: bool = False) -> str:
    bare = not isinstance(value, str) or key and re.fullmatch(r"[\w-]+", value)
    return str(value) if bare else json.dumps(value, ensure_ascii=False)


def merge(paths: list[Path]) -> dict[str, np.ndarray]:
    """One model's results of several runs: numbers side by side, all else from the first run."""
    runs = []
    for path in paths:
        with np.load(path, allow_pickle=False) as saved:
            runs.append({key: saved[key] for key in saved.files})
    first = runs[0]
    numbers = [k for k, v in first.items() if v.ndim == 0 and v.dtype.kind in "biuf"]
    numbers = [k for k in numbers if not re.search("_ms$|seconds", k) and all(k in r for r in runs)]
    dataset = json.loads(str(first["about"]))["dataset"]
    if dataset != "mnist":
        raise SystemExit(f"the reference is made from MNIST, not from {dataset}")
    return first | {key: np.array([run[key] for run in runs]) for key in numbers}


def write_reference(name: str) -> None:
    """Merge what one notebook saved with all its seeds into labkit/compare/reference."""
    first, *others = sorted((RESULTS / name).glob("[0-9]*"))
    for path in sorted(first.glob("*-mnist.npz")):
        content = io.BytesIO()
        np.savez_compressed(content, **merge([path, *(seed / path.name for seed in others)]))
        with files.whole(REFERENCE / f"{path.stem.removesuffix('-mnist')}.npz") as file:
            file.write(content.getvalue())
        print(f"{path.stem}: {1 + len(others)} seeds, {len(content.getvalue()) / 1000:.0f} KB")


def source_of(path: Path, record: str) -> str:
    """A mark of all the code on which a record of a notebook depends, but not of its spaces."""
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    found, _ = slice.statements(cells, path.stem)
    first = lambda s: min(n.lineno for n in [s.node, *getattr(s.node, "decorator_list", [])])
    text = lambda s: "\n".join(cells[s.cell].splitlines()[first(s) - 1 : s.node.end_lineno])
    place = next(i for i, s in enumerate(found) if f'"{record}"' in text(s))
    parts = sorted({place} | slice.needed(found, found[place].needs, place))
    code = "".join("".join(text(found[i]) for i in parts).split()).encode()
    return hashlib.sha256(code).hexdigest()[:16]


def keep_records(path: Path, folder: Path) -> None:
    """Put what a run with LABKIT_RETRAIN recorded into labkit/compare/recorded."""
    for record in sorted(folder.glob(f"{path.stem[:2]}_*.npz")):
        with np.load(record, allow_pickle=False) as saved:
            values = {key: saved[key] for key in saved.files}
        about = json.loads(str(values["about"])) | {"source": source_of(path, record.stem)}
        content = io.BytesIO()
        np.savez_compressed(content, **values | {"about": json.dumps(about)})
        with files.whole(REFERENCE.with_name("recorded") / record.name) as file:
            file.write(content.getvalue())
        print(f"{record.stem}: {about['seconds']} s, {len(content.getvalue()) / 1000:.0f} KB")


def take_share(worker: int, workers: int) -> None:
    """Keep this thread, and the processes that it starts, to the share of worker 0, 1, 2, ...

    Several JAX processes with a thread for every core would wait for each other. Not on macOS.
    """
    if workers > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[worker % len(cores) :: workers])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=notebooks())
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--times", action="store_true", help="write the times measured")
    parser.add_argument("--seed", type=int, default=0, help="other random numbers, nothing stored")
    parser.add_argument("--digits", action="store_true", help="the small digits, nothing stored")
    either.add_argument("--retrain", action="store_true", help="make the records anew")
    parser.add_argument("--gpu", action="store_true", help="times and results only, of a GPU")
    parser.add_argument("--merge", action="store_true", help="make the reference of all seeds")
    options = parser.parse_args(arguments)
    kind = "gpu" if jax.default_backend() == "gpu" else "cpu"
    if options.gpu and kind != "gpu":
        parser.error("JAX finds no GPU here: is the extra `gpu` installed, and the driver?")
    for path in options.notebooks:
        if options.merge:
            write_reference(path.stem)
            continue
        with tempfile.TemporaryDirectory() as empty:
            run_name = "gpu" if options.gpu else f"{'digits-' * options.digits}{options.seed}"
            folder = RESULTS / path.stem / run_name
            (folder / "results.jsonl").unlink(missing_ok=True)
            environment = {"LABKIT_RESULTS": str(folder)}
            if options.retrain or options.seed:
                environment["LABKIT_RETRAIN"] = "1"
            if options.digits:
                environment["LABKIT_DATASET"] = "digits"
            if options.times or options.gpu:  # a first-time reader has compiled nothing yet
                environment["JAX_COMPILATION_CACHE_DIR"] = empty
            store = not (options.gpu or options.digits or options.retrain)
            run = execute(path, environment, seed=options.seed, store=store, times=options.times)
        print(f"{path.name}: {run.seconds:.0f} s", flush=True)
        if options.retrain:
            keep_records(path, folder)
        if options.times or options.gpu:
            write_times(path.stem, run, kind)
            stamp.main([])  # the new time stands in many places


if __name__ == "__main__":
    main()
