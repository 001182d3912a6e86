"""The one way to read a LABKIT_ variable, and the one way to write a file."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import platformdirs


def setting(name: str) -> str:
    """An environment variable; empty or blank is the same as not set."""
    return os.environ.get(name, "").strip()


def folder(name: str, default: str | Path) -> Path:
    """The folder that a variable names, `~` expanded, absolute; `default` where it is not set.

    Raises ValueError if there is a file of that name.
    """
    chosen = Path(os.path.expandvars(setting(name)) or default)
    with contextlib.suppress(RuntimeError):  # no home folder is known: `~` stays as it is
        chosen = chosen.expanduser()
    chosen = Path(os.path.abspath(chosen))
    if chosen.is_file():
        raise ValueError(f"{name} must name a folder, and there is a file of that name")
    return chosen


def cache() -> Path:
    """LABKIT_CACHE: compiled functions and whatever else can be made anew."""
    return folder("LABKIT_CACHE", platformdirs.user_cache_dir("labkit"))


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write that gets its name only once it is whole, and on the disk.

    An exception on the way leaves whatever was there before, and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
