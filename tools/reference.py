"""Make the reference results that notebook 06 shows for what a reader has not run.

usage: python tools/reference.py [--seeds N] [--only SEED] [--folder FOLDER] [NOTEBOOK ...]

Runs notebooks 01 to 05 on MNIST, once for each seed, every random key of a notebook changed with
the seed. What they save goes to FOLDER (one folder for each seed; a run that is there already is
not repeated), and from there, all seeds together, to labkit/reference. With --only one seed is run
and nothing merged: runs of several seeds may go on side by side. Times are those of seed 0.
"""

import argparse
import io
import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient

from tools.execute import ENVIRONMENT, ROOT

REFERENCE = ROOT / "labkit" / "compare" / "reference"
KEY = re.compile(r"jax\.random\.key\(")


def with_seed(notebook, seed: int):
    """The notebook with other random keys: each number that makes a key is shifted by the seed."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = KEY.sub(f"jax.random.key({1000 * seed} + ", cell.source)
    return notebook


def run(path: Path, seed: int, folder: Path) -> list[str]:
    """Run one notebook with one seed, its results into `folder`; returns the errors it met."""
    notebook = with_seed(nbformat.read(path, as_version=4), seed)
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", allow_errors=True,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute(env=os.environ | ENVIRONMENT | {"LABKIT_RESULTS": str(folder)})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.evalue for output in outputs if output.output_type == "error"]


def merge(files: list[Path]) -> dict[str, np.ndarray]:
    """One model's results of several runs: numbers side by side, all else from the first run."""
    runs = []
    for file in files:
        with np.load(file, allow_pickle=False) as saved:
            runs.append({key: saved[key] for key in saved.files})
    first = runs[0]
    numbers = [k for k, v in first.items() if v.ndim == 0 and v.dtype.kind in "biuf"]
    numbers = [k for k in numbers if not k.endswith("_ms") and "seconds" not in k]
    numbers = [k for k in numbers if all(k in run for run in runs)]
    merged = first | {key: np.array([run[key] for run in runs]) for key in numbers}
    about = json.loads(str(first["about"]))
    if about["dataset"] != "mnist":
        raise SystemExit(f"the reference is made from MNIST, not from {about['dataset']}")
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, metavar="SEED")
    parser.add_argument("--folder", type=Path, default=ROOT / "_build" / "reference")
    arguments = parser.parse_args()
    paths = arguments.notebooks or sorted((ROOT / "notebooks").glob("0[1-5]*.ipynb"))
    folders = [arguments.folder / str(seed) for seed in range(arguments.seeds)]
    for seed, folder in enumerate(folders):
        if arguments.only not in (None, seed):
            continue
        for path in paths:
            done = folder / f"{path.stem}.done"
            if done.exists():
                continue
            errors = run(path, seed, folder)
            print(f"seed {seed}, {path.name}:", *(errors or ["no error"]), sep="\n  ", flush=True)
            done.touch()
    if arguments.only is not None:
        return
    REFERENCE.mkdir(exist_ok=True)
    for first in sorted(folders[0].glob("*-mnist.npz")):
        content = io.BytesIO()
        np.savez_compressed(content, **merge([folder / first.name for folder in folders]))
        target = REFERENCE / f"{first.stem.removesuffix('-mnist')}.npz"
        target.write_bytes(content.getvalue())
        print(f"{target.name}: {len(content.getvalue()) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
