"""Bring everything stored up to date, in the right order: outputs, run times, pictures and results
of the notebooks, the reference, the capstone, the values seen, every stamped line, the benchmark.

usage: python -m tools.refresh [--dry-run | --all | --seen]

A step is left out if what it depends on did not change since it last ran: the code of its notebook
(not its text), labkit, the files that it reads. The fingerprints are in tools/refresh.json, which
belongs into the commit. Run it on an idle machine with MNIST, since it measures times. Interrupted,
it goes on with the step that was not finished. `--all`, as after a new JAX, runs every step;
`--seen` none, it only adds the values seen and stamps.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools import ROOT, notebooks, read, run, write

STATE = ROOT / "tools" / "refresh.json"
EXPECTED = ROOT / "labkit" / "expected.toml"
SEEDS = (1, 2)  # beside 0, which is the notebooks' own


class Step(NamedTuple):
    """What to run with this Python, and the files that decide whether it has to run."""

    name: str
    command: list[str]
    needs: list[Path]


def steps() -> Iterator[Step]:
    """All steps in order; those before it have run when the next is asked for."""
    code = [ROOT / "labkit" / f"{name}.py" for name in ("compare/judge", "data", "fit")]
    export = "from labkit.compare import judge; judge.export('labkit/compare/recorded')"
    yield Step("judge", ["-c", export], code)
    labkit = sorted((ROOT / "labkit").rglob("*.py"))
    kept = ROOT / "labkit" / "compare" / "recorded"
    labkit += sorted(file for file in kept.iterdir() if not file.name[0].isdigit())
    models = [path for path in notebooks(ROOT) if "answers.save(" in content(path)]
    for path in sorted(notebooks(ROOT), key=lambda path: "answers.collect(" in content(path)):
        name = path.relative_to(ROOT).as_posix()
        if "RETRAIN" in content(path):
            again = ["-m", "tools.run", "--retrain", name]
            yield Step(f"{path.stem} recorded", again, [path, *code])
        needs = [path, *labkit, *sorted(kept.glob(f"{path.stem[:2]}_*"))]
        if "answers.collect(" in content(path):
            needs += sorted(run.REFERENCE.glob("*.npz"))
        yield Step(path.stem, ["-m", "tools.run", "--times", name], needs)
        for seed in SEEDS if path in models else ():
            yield Step(f"{path.stem} {seed}", ["-m", "tools.run", "--seed", str(seed), name], needs)
        if path in models:
            yield Step(f"{path.stem} merged", ["-m", "tools.run", "--merge", name], needs)
    shown = [path for path in models if path.name[:2] in ("02", "04", "05")]
    yield Step("live", ["-m", "tools.live"], [*code, ROOT / "tools" / "live.py", *shown])
    bench = sorted((ROOT / "tools" / "bench").glob("*.py"))
    yield Step("bench", ["-m", "tools.bench"], [*bench, ROOT / "labkit" / "fit.py", *models])


def content(path: Path) -> str:
    """What counts of a file: the code of a notebook; of a module all but its comments."""
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    if path.suffix == ".py":
        return re.sub(r"(?m)^\s*#.*\n", "", path.read_text("utf-8"))
    return path.read_bytes().hex()


def fingerprint(step: Step) -> str:
    parts = [*step.command, *map(content, step.needs)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def add_seen() -> None:
    """Add to labkit/expected.toml what the runs in _build/results saw beyond what it lists."""
    text = EXPECTED.read_text("utf-8")
    entries = tomllib.loads(text)
    for file in sorted(run.RESULTS.glob("*/*/results.jsonl")):
        for line in map(json.loads, file.read_text("utf-8").splitlines()):
            name, dataset, value = line["name"], line["dataset"], float(f"{line['value']:.5g}")
            if dataset not in entries.get(name, {}):
                continue
            low, high = entries[name][dataset]["range"]
            seen = entries[name][dataset]["seen"]
            if not low <= value <= high:
                print(f"{name} = {value} ({file.parent}) is outside [{low}, {high}] on {dataset}")
            if value not in seen and (len(seen) < 3 or not min(seen) <= value <= max(seen)):
                seen[:] = sorted([*seen, value])
                pattern = rf'(\["{name}"\](?:\n(?!\[).*)*?\n{dataset} = .*?seen = )\[.*?\]'
                text = re.sub(pattern, lambda match, seen=seen: f"{match[1]}{seen}", text)
    write(EXPECTED, text)


def finish() -> None:
    """What takes seconds and changes nothing if all is up to date."""
    add_seen()
    subprocess.run([sys.executable, "-m", "tools.stamp"], cwd=ROOT, check=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    parser.add_argument("--all", action="store_true", help="run every step")
    parser.add_argument("--seen", action="store_true", help="only what takes seconds")
    options = parser.parse_args(arguments)
    state = json.loads(STATE.read_text("utf-8")) if STATE.is_file() and not options.all else {}
    for step in () if options.seen else steps():
        if state.get(step.name) == fingerprint(step):
            continue
        print(f"{step.name}: python {' '.join(step.command)}", flush=True)
        if not options.dry_run:
            subprocess.run([sys.executable, *step.command], cwd=ROOT, check=True)
            state[step.name] = fingerprint(step)
            write(STATE, json.dumps(state, indent=1, sort_keys=True) + "\n")
    if not options.dry_run:
        finish()


if __name__ == "__main__":
    main()
