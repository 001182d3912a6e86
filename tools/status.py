"""The status page: how long each notebook took, in how much memory, on what, with which data.

`tools/stamp.py` calls `write`; the measurements are those of labkit/times.toml. What stands
between the page's bench markers belongs to another tool and is kept.
"""

import re
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
PAGE = "pages/status.md"
TABLE = re.compile(r"<!-- status -->.*<!-- /status -->", re.DOTALL)
UNKNOWN = "–"


def page(text: str, root: Path = ROOT) -> str:
    """The page's text with today's table; ValueError where the markers are missing."""
    times = tomllib.loads((root / "labkit/times.toml").read_text("utf-8"))
    titles = {path.stem: title(path) for path in sorted((root / "notebooks").glob("[0-9]*.ipynb"))}
    new = f"<!-- status -->\n{table(times, titles)}\n\n{conditions(times)}\n<!-- /status -->"
    text, found = TABLE.subn(lambda _: new, text)
    if found != 1:
        raise ValueError(f"{PAGE} must have <!-- status --> and <!-- /status -->, once each")
    return text


def write(root: Path = ROOT) -> None:
    file = root / PAGE
    file.write_text(page(file.read_text("utf-8"), root), "utf-8")


def title(path: Path) -> str:
    """A notebook's title, from its first line."""
    return nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")


def table(times: dict, titles: dict[str, str]) -> str:
    """One row a notebook; `times` as in labkit/times.toml, `titles` by the notebook's name."""
    rows = [
        "| Notebook | CPU | GPU | Peak memory | Data | Date |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in titles.items():
        cpu, gpu = (times.get(name, {}).get(kind, {}) for kind in ("cpu", "gpu"))
        memory = f"{cpu['memory']:.1f}\N{NO-BREAK SPACE}GiB" if "memory" in cpu else UNKNOWN
        rows.append(
            f"| [{words}]({name}.ipynb) | {_seconds(cpu)} | {_seconds(gpu)} | {memory} "
            f"| {cpu.get('dataset', UNKNOWN)} | {cpu.get('date', UNKNOWN)} |"
        )
    return "\n".join(rows)


def conditions(times: dict) -> str:
    """One line for each combination of device and versions that was used."""
    used: dict[tuple[str, str], list[str]] = {}
    for name, entry in sorted(times.items()):
        for kind in ("cpu", "gpu"):
            if kind in entry:
                key = (entry[kind]["device"], entry[kind].get("versions", "versions not recorded"))
                used.setdefault(key, []).append(name[:2])
    return "\n".join(
        f"- {device} (notebooks {', '.join(names)}): {versions}"
        for (device, versions), names in used.items()
    )


def _seconds(entry: dict) -> str:
    return f"{entry['seconds']}\N{NO-BREAK SPACE}s" if entry else UNKNOWN
