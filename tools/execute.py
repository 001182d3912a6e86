"""Run notebooks in place, each in a clean kernel on MNIST; a second run changes no byte.

usage: python tools/execute.py [--times] [--results FOLDER] [NOTEBOOK ...]

Cells tagged `timing` print measured times, which vary. Their stored outputs are kept as long as
the new ones say the same and no number moved by more than a factor of two. `--times` writes how
long each notebook and each of its sections took into labkit/times.toml, with the kernel's peak
memory. The figure of the cell tagged `picture` goes to labkit/pictures, from where the setup cell
shows it. Results that a notebook saves are dropped, so that notebook 06 shows the reference;
`--results _build/reference/0` keeps them as seed 0 of `tools/reference.py`.
"""

import argparse
import base64
import datetime
import json
import os
import re
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient

from tools.stamp import stamp_alternative_text

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT / "labkit" / "times.toml"
PICTURES = ROOT / "labkit" / "pictures"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
ENVIRONMENT = {"LABKIT_DATASET": "mnist", "LABKIT_STATIC": "1", "TQDM_DISABLE": "1"}


class Run(NamedTuple):
    """Seconds of a whole notebook, the kernel's start included, and of each section; GiB at most.

    memory is None where the system does not tell (it is read from /proc).
    """

    seconds: float
    sections: dict[str, float]
    memory: float | None


def execute(path: Path, environment: dict[str, str] | None = None) -> Run:
    """Run one notebook in place, from a clean kernel; returns what it took."""
    notebook = nbformat.read(path, as_version=4)
    before = [list(cell.get("outputs", [])) for cell in notebook.cells]
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", record_timing=False,
        store_widget_state=False, resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    watch = Watch(client)
    began = time.perf_counter()
    client.execute(env=os.environ | ENVIRONMENT | (environment or {}))
    seconds = time.perf_counter() - began
    for cell, old in zip(notebook.cells, before, strict=True):
        if cell.cell_type != "code":
            continue
        cell.outputs = merge_streams(cell.outputs)
        if "timing" in cell.metadata.get("tags", []) and same_story(old, cell.outputs):
            cell.outputs = old
    show_picture(notebook, path.stem)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            stamp_alternative_text(cell)
    notebook.metadata.language_info = {"name": "python"}
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    return Run(seconds, watch.sections, watch.memory)


class Watch:
    """Adds up the seconds of each section's cells, and keeps the kernel's peak memory in GiB."""

    def __init__(self, client: NotebookClient):
        self.client, self.headings, heading = client, [], "Setup"
        client.on_cell_start, client.on_cell_executed = self.start, self.stop
        for cell in client.nb.cells:
            found = re.findall(r"^## (.+)$", cell.source, re.M)
            heading = found[0] if cell.cell_type == "markdown" and found else heading
            self.headings.append(heading)
        self.sections, self.memory, self.began = {}, None, 0.0

    def start(self, cell, cell_index):
        self.began = time.perf_counter()

    def stop(self, cell, cell_index, execute_reply):
        heading, took = self.headings[cell_index], time.perf_counter() - self.began
        self.sections[heading] = self.sections.get(heading, 0.0) + took
        status = Path(f"/proc/{self.client.km.provisioner.pid}/status")
        if status.is_file():
            self.memory = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**20


def show_picture(notebook, name: str) -> None:
    """Keep the figure of the cell tagged `picture`; put it into the setup cell's output."""
    tagged = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    picture = next(o for o in tagged["picture"].outputs if "image/png" in o.get("data", {}))
    encoded, alt = picture.data["image/png"], picture.metadata["image/png"]["alt"]
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.png").write_bytes(base64.b64decode(encoded))
    setup = tagged["setup"]
    setup.outputs = [o for o in setup.outputs if "image/png" not in o.get("data", {})]
    setup.outputs.append(
        nbformat.v4.new_output(
            "display_data",
            data={"image/png": encoded, "text/plain": "<Figure>"},
            metadata={"image/png": {"alt": alt}},
        )
    )


def merge_streams(outputs: list) -> list:
    """Join neighbouring outputs of one stream: how they were cut up depends on the moment."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def same_story(old: list, new: list) -> bool:
    """Whether two outputs differ in nothing but numbers, and in those by less than a factor 2."""
    texts = [_text(old), _text(new)]
    if len(old) != len(new) or len({NUMBER.sub("#", text) for text in texts}) > 1:
        return False
    pairs = zip(*([float(n) for n in NUMBER.findall(text)] for text in texts), strict=True)
    return all(a == b or max(a, b) < 2 * min(a, b) for a, b in pairs)


def _text(outputs: list) -> str:
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def write_times(runs: dict[str, Run], kind: str, about: dict[str, str]) -> None:
    """Put measured times into labkit/times.toml, other entries kept; `about` holds device,
    dataset and versions. Sections are kept for the CPU only."""
    times = tomllib.loads(TIMES.read_text("utf-8"))
    for name, run in runs.items():
        entry = {"seconds": round(run.seconds)} | about
        if run.memory is not None:
            entry["memory"] = round(run.memory, 1)
        times.setdefault(name, {})[kind] = entry | {"date": datetime.date.today()}
        if kind == "cpu":
            times[name]["sections"] = {k: round(v, 1) for k, v in run.sections.items()}
    lines = [line for line in TIMES.read_text("utf-8").splitlines() if line.startswith("#")]
    for name in sorted(times):
        for kind, entry in sorted(times[name].items()):
            lines += ["", f"[{name}.{kind}]"]
            lines += [f"{_key(k)} = {_value(v)}" for k, v in entry.items()]
    TIMES.write_text("\n".join(lines) + "\n", "utf-8")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else json.dumps(key, ensure_ascii=False)


def _value(value) -> str:
    text = isinstance(value, str)
    return json.dumps(value, ensure_ascii=False) if text else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--times", action="store_true", help="write the times measured")
    parser.add_argument("--results", type=Path, help="folder that keeps what notebooks save")
    arguments = parser.parse_args()
    runs = {}
    for path in arguments.notebooks or sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        with tempfile.TemporaryDirectory() as empty:
            environment = {"LABKIT_RESULTS": str((arguments.results or Path(empty)).resolve())}
            if arguments.times:  # a first-time reader has compiled nothing yet
                environment["JAX_COMPILATION_CACHE_DIR"] = empty
            runs[path.stem] = execute(path, environment)
        print(f"{path.name}: {runs[path.stem].seconds:.0f} s", flush=True)
    if arguments.times:
        import jax

        from labkit import session

        kind = "gpu" if jax.default_backend() == "gpu" else "cpu"
        versions = ", ".join(" ".join(pair) for pair in session.versions().items())
        about = {"device": session.device(), "dataset": "MNIST", "versions": versions}
        write_times(runs, kind, about)


if __name__ == "__main__":
    main()
