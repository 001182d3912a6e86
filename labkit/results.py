"""What each notebook leaves behind for the capstone: a few arrays in one small file, no pickle."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import platformdirs

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
    about = {
        "dataset": data.in_use(),
        "device": session.device(),
        "versions": session.versions(),
    }
    target = folder() / f"{name}-{about['dataset']}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, about=json.dumps(about), **arrays)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    print(f"saved {len(arrays)} results of notebook {name}")
