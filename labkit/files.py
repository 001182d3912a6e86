"""The one way to read a LABKIT_ variable, and the one way to write a file."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import platformdirs

_said: set[str] = set()


def say_once(text: str) -> None:
    """Print what concerns the whole session, the first time."""
    if text not in _said:
        print(text, flush=True)
    _said.add(text)


def setting(name: str) -> str:
    """An environment variable; empty or blank is the same as not set."""
    return os.environ.get(name, "").strip()


def folder(name: str, default: Callable[[str], str] | str) -> Path:
    """The folder that a variable names, `~` expanded, absolute; else `default`, which may be a
    function of platformdirs. Without a home, a place where nothing can be kept. ValueError if there
    is a file of that name."""
    chosen = os.path.expanduser(os.path.expandvars(setting(name)))
    with contextlib.suppress(RuntimeError):
        chosen = chosen or str(default("labkit") if callable(default) else default)
    chosen = os.devnull + "/no home" if chosen[:1] in ("", "~") else chosen
    if os.path.isfile(chosen):
        raise ValueError(f"{name} must name a folder, and there is a file of that name")
    return Path(os.path.abspath(chosen))


def cache() -> Path:
    """LABKIT_CACHE: compiled functions and whatever else can be made anew."""
    return folder("LABKIT_CACHE", platformdirs.user_cache_dir)


@contextlib.contextmanager
def optional(what: str, variable: str) -> Iterator[None]:
    """Keep what the course can do without; if that fails, say so once and go on."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        say_once(f"labkit: {what} cannot be kept ({why}); {variable} names the folder.")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write that gets its name only once it is whole, and on the disk; else all
    stays as it was. What a killed process left goes when the file is written an hour later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
