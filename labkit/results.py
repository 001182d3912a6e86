"""What each notebook leaves behind for the capstone: a few arrays in one small file, no pickle;
and the tables and pictures of runs too long for a lab, which come with labkit."""

import json
import os
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import platformdirs
from IPython.display import Image, display

from labkit import data, session

LIMIT = 1_000_000  # bytes of one file; a few hundred KB is what the capstone needs


def folder() -> Path:
    """The reader's own folder of results: LABKIT_RESULTS, or a data folder of the user."""
    default = Path(platformdirs.user_data_dir("labkit")) / "results"
    return Path(os.environ.get("LABKIT_RESULTS") or default)


def save(name: str, /, **arrays) -> None:
    """Save named arrays (metrics, curves, samples, times) as `name`-`dataset`.npz, all or nothing.

    Device, versions and dataset are saved with them. Raises ValueError where the arrays hold
    objects or take more than 1 MB in all.
    """
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    objects = [key for key, value in arrays.items() if value.dtype.hasobject]
    size = sum(value.nbytes for value in arrays.values())
    if objects or size > LIMIT:
        raise ValueError(
            f"results {name!r}: {objects} hold Python objects; save arrays of numbers or text."
            if objects
            else f"results {name!r} take {size} bytes, more than {LIMIT}; save fewer samples."
        )
    about = _about()
    target = folder() / f"{name}-{about['dataset']}.npz"
    _write(target, lambda file: np.savez_compressed(file, about=json.dumps(about), **arrays))
    print(f"saved {len(arrays)} results of notebook {name}")


def save_table(name: str, rows: list[dict[str, float]]) -> None:
    """Save the rows of a long run, all with the same columns, as `name`.csv, all or nothing.

    A maintainer copies the file into labkit/recorded, where `recorded` finds it.
    """
    about = _about()
    about["versions"] = ", ".join(" ".join(pair) for pair in about["versions"].items())
    lines = [f"# {key}: {value}" for key, value in about.items()]
    lines += [",".join(rows[0])] + [",".join(f"{v:.7g}" for v in row.values()) for row in rows]
    _write(folder() / f"{name}.csv", lambda file: file.write("\n".join([*lines, ""]).encode()))
    print(f"saved the {len(rows)} rows of {name}.csv")


def recorded(name: str) -> dict[str, np.ndarray]:
    """The columns of a table that comes with labkit; prints on what it was measured.

    Raises ValueError for a name that labkit does not hold.
    """
    tables = resources.files("labkit").joinpath("recorded")
    file = tables.joinpath(f"{name}.csv")
    if not file.is_file():
        files = [entry.name for entry in tables.iterdir()]
        names = sorted(name.removesuffix(".csv") for name in files if name.endswith(".csv"))
        raise ValueError(f"no recorded table {name!r}; labkit has {names}")
    lines = file.read_text("utf-8").splitlines()
    about = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    print("recorded with", "; ".join(about))
    header, *rows = [line.split(",") for line in lines if not line.startswith("#")]
    return dict(zip(header, np.array(rows, dtype=float).T))


def show_recorded(name: str, *, alt: str) -> None:
    """Show the picture that belongs to a recorded table; `alt` says it in words."""
    picture = resources.files("labkit").joinpath("recorded", f"{name}.png")
    display(Image(picture.read_bytes(), alt=alt))


def _about() -> dict:
    return {
        "dataset": data.in_use(),
        "device": session.device(),
        "versions": session.versions(),
    }


def _write(target: Path, write) -> None:
    """Under its final name only once it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
