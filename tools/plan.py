"""The tables of the lecturer's guide that hold measured figures, written by `make stamp`.

`<!-- machines -->` becomes a table of run times and memory. `<!-- plan NOTEBOOK 1=10 2=3 ... -->`
becomes the plan of a lab: planned minutes for each numbered section (0: at home), the minutes that
its exercises are said to take, and how long its cells run.
"""

import re
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 105  # of a lab of two hours
MACHINES = re.compile(r"<!-- machines -->.*?<!-- /machines -->", re.DOTALL)
PLAN = re.compile(r"<!-- plan (\w+) ([\d= ]+) -->.*?<!-- /plan -->", re.DOTALL)
HEADING = re.compile(r"^## ((\d+) .+)$", re.M)
EXERCISE = re.compile(r"^### Exercise (\S+) .*\([★☆]{3}, (\d+) min\)$", re.M)


def measured(root: Path) -> dict[str, dict]:
    return tomllib.loads((root / "labkit/times.toml").read_text("utf-8"))


def sections(path: Path) -> dict[int, tuple[str, list[tuple[str, int]]]]:
    """Number → heading and exercises (name, minutes) of each numbered section of a notebook."""
    found, number = {}, None
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "markdown":
            continue
        for part in re.split(r"(?m)^(?=## )", cell.source):
            heading = HEADING.match(part)
            number = int(heading[2]) if heading else None if part.startswith("## ") else number
            if heading:
                found[number] = heading[1], []
            if number is not None:
                found[number][1].extend((e[0], int(e[1])) for e in EXERCISE.findall(part))
    return found


def plan(root: Path, name: str, minutes: str) -> str:
    """The table of one lab. Raises ValueError where sections are missing or the time is up."""
    planned = {int(a): int(b) for a, b in (pair.split("=") for pair in minutes.split())}
    parts = sections(root / "notebooks" / f"{name}.ipynb")
    if planned.keys() != parts.keys() or sum(planned.values()) > MINUTES:
        raise ValueError(
            f"the plan of {name} must give minutes for sections {sorted(parts)}, "
            f"at most {MINUTES} in all; it has {planned}"
        )
    seconds = measured(root)[name].get("sections", {})
    rows = ["| Section | Minutes | Exercises | Runs for |", "|---|---|---|---|"]
    for number, (heading, exercises) in parts.items():
        told = ", ".join(f"{exercise} ({length} min)" for exercise, length in exercises)
        ran = f"{seconds[heading]:.0f} s" if heading in seconds else "not measured"
        rows.append(f"| {heading} | {planned[number] or 'at home'} | {told} | {ran} |")
    return "\n".join([*rows, f"| **in all** | **{sum(planned.values())}** | | |"])


def machines(root: Path) -> str:
    """Run time and memory of every notebook, and the section that one waits for longest."""
    rows = ["| Notebook | *Run all* | Memory | Longest wait |", "|---|---|---|---|"]
    for name, entry in sorted(measured(root).items()):
        cpu, parts = entry["cpu"], entry.get("sections", {})
        memory = f"{cpu['memory']:.1f} GiB" if "memory" in cpu else "not measured"
        longest = max(parts, key=parts.get, default=None)
        wait = f"section {longest}: {parts[longest]:.0f} s" if longest else "not measured"
        gpu = f", {entry['gpu']['seconds']} s on {entry['gpu']['device']}" if "gpu" in entry else ""
        rows.append(
            f"| {name[:2]} | {cpu['seconds']} s on a {cpu['device']}{gpu} | {memory} | {wait} |"
        )
    return "\n".join(rows)


def stamp_guide(text: str, root: Path = ROOT) -> str:
    """The guide with today's tables."""
    text = MACHINES.sub(f"<!-- machines -->\n{machines(root)}\n<!-- /machines -->", text)
    return PLAN.sub(
        lambda m: f"<!-- plan {m[1]} {m[2]} -->\n{plan(root, m[1], m[2])}\n<!-- /plan -->", text
    )
