"""Get a dataset into memory, and batch it.

`load` looks in a local folder, then downloads, then falls back to the digits that come with
scikit-learn. Three environment variables steer it:

LABKIT_DATA     folder that keeps the data (default: a cache folder of the user)
LABKIT_MIRROR   http(s) or file URL that is tried before torchvision's own mirrors
LABKIT_DATASET  "mnist": no fallback, an error instead; "digits": the embedded digits, at once
"""

import contextlib
import errno
import functools
import io
import operator
import os
import shutil
import socket
import tempfile
import textwrap
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs

SOURCES = {
    "mnist": "MNIST (LeCun, Cortes & Burges), 28×28 handwritten digits",
    "fashion_mnist": "Fashion-MNIST (Xiao, Rasul & Vollgraf), 28×28 pictures of clothes",
    "kmnist": "Kuzushiji-MNIST (Clanuwat et al.), 28×28 handwritten Japanese characters",
    "digits": "scikit-learn's 8×8 handwritten digits, enlarged to 28×28",
}
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
TIMEOUT = 5  # seconds a server may take to connect, or to send the next bytes
STALL = 10  # seconds in which something (32 KiB) has to arrive
DEADLINE = 300  # seconds for everything from one address
SCRATCH = "labkit-download-"  # unfinished work; swept when older than an hour
NO_ROOM = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT}

_in_use = "mnist"
_said: set[str] = set()


class DataUnavailable(RuntimeError):
    """The dataset is neither in the local folder nor to be downloaded; says why and what to do."""


class Dataset(NamedTuple):
    """Images float32 (N, 28, 28) in [0, 1] and labels int32 (N,), for training and for testing."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    name: str
    source: str

    @property
    def counts(self) -> dict[str, dict[int, int]]:
        """Images per class: `counts["training"][3]`, `counts["test"][3]`."""
        parts = {"training": self.train_labels, "test": self.test_labels}
        return {
            part: {int(c): int((labels == c).sum()) for c in np.unique(labels)}
            for part, labels in parts.items()
        }

    def __repr__(self) -> str:
        counts = self.counts
        classes = sorted(counts["training"] | counts["test"])
        lines = [f"{self.name}: {self.source}", "  class   " + "".join(f"{c:>7}" for c in classes)]
        for part, table in counts.items():
            cells = "".join(f"{table.get(c, 0):>7,}" for c in classes)
            lines.append(f"  {part:<8}{cells}  = {sum(table.values()):,} images")
        shape = "×".join(map(str, self.train_images.shape[1:]))
        kinds = f"{self.train_images.dtype} in [0, 1], labels {self.train_labels.dtype}"
        return "\n".join([*lines, f"  images {shape}, {kinds}"])


def load(name: str = "mnist", digits: Iterable[int] | None = None) -> Dataset:
    """A dataset in memory: images float32 (N, 28, 28) in [0, 1], labels int32 (N,).

    `name` is "mnist", "fashion_mnist", "kmnist" or "digits"; `digits=[5, 7]` keeps these classes,
    under their own labels. Without MNIST, `load("mnist")` says so in a banner and gives "digits".
    Raises ValueError for a bad argument or LABKIT_ variable, DataUnavailable if there is no data.
    """
    if not isinstance(name, str) or name not in SOURCES:
        raise ValueError(f"no dataset {name!r}; there are {', '.join(map(repr, SOURCES))}")
    classes = None if digits is None else _classes(digits)
    folder, mirror, wanted = _settings()
    if name == "mnist" and wanted == "digits":
        _say_once("labkit: LABKIT_DATASET=digits, so these are scikit-learn's digits, not MNIST.")
        name = "digits"
    if name == "digits":
        arrays = _embedded()
    else:
        try:
            arrays = _stored(name, folder) or _obtain(name, folder, mirror)
        except DataUnavailable as error:
            if name != "mnist" or wanted == "mnist":
                raise
            _say_once(_banner(str(error)))
            name, arrays = "digits", _embedded()
    if name in ("mnist", "digits"):
        global _in_use
        _in_use = name
    parts = []
    for images, labels in (arrays[:2], arrays[2:]):
        if classes is not None:
            kept = np.isin(labels, classes)
            images, labels = images[kept], labels[kept]
        if images.dtype == np.uint8:
            images = np.divide(images, np.float32(255), dtype=np.float32)
        parts += [images, labels.astype(np.int32)]
    return Dataset(*parts, name=name, source=SOURCES[name])


def _say_once(text: str) -> None:
    """Print what concerns the whole session the first time only; notebooks load more than once."""
    if text not in _said:
        print(text)
        _said.add(text)


def in_use() -> str:
    """What the course runs on in this process: "mnist", or "digits" once those were loaded."""
    return _in_use


def one_hot(labels: np.ndarray, classes: int = 10) -> np.ndarray:
    """Labels (N,) in 0 … classes-1 as float32 (N, classes); ValueError for any other label."""
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels must lie in 0 … {classes - 1}")
    return np.eye(classes, dtype=np.float32)[labels]


def flatten(images: np.ndarray) -> np.ndarray:
    """Images (N, 28, 28) as rows (N, 784), without a copy where possible."""
    return np.reshape(images, (len(images), -1))


def batches(
    arrays: Sequence[np.ndarray], batch_size: int, *, seed: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """One shuffled pass over arrays (N, …) of equal length, as tuples of arrays (batch_size, …).

    The last incomplete batch is dropped. ValueError for unequal lengths or an impossible size.
    """
    lengths = sorted({len(array) for array in arrays})
    if len(lengths) != 1 or not 1 <= batch_size <= lengths[0]:
        raise ValueError(f"no batches of {batch_size} from arrays of length {lengths}")
    order = np.random.default_rng(seed).permutation(lengths[0])
    for end in range(batch_size, lengths[0] + 1, batch_size):
        yield tuple(array[order[end - batch_size : end]] for array in arrays)


def _classes(digits: Iterable[int]) -> list[int]:
    try:
        if isinstance(digits, str | bytes):
            raise TypeError
        classes = [operator.index(digit) for digit in digits]
    except TypeError:
        raise ValueError(f"digits must be a list of whole numbers, not {digits!r}") from None
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(f"digits must be different numbers from 0 to 9, at least one: {classes}")
    return classes


def _settings() -> tuple[Path, str, str]:
    """LABKIT_DATA, LABKIT_MIRROR and LABKIT_DATASET, checked; unset and empty are the same."""
    folder = os.environ.get("LABKIT_DATA") or platformdirs.user_cache_dir("labkit")
    folder = Path(folder).expanduser()
    mirror = os.environ.get("LABKIT_MIRROR", "").rstrip("/")
    wanted = os.environ.get("LABKIT_DATASET", "")
    if os.path.isfile(folder):
        raise ValueError("LABKIT_DATA must name a folder; there is a file of that name")
    if mirror and not mirror.startswith(("http://", "https://", "file:///")):
        raise ValueError(f"LABKIT_MIRROR must begin with http://, https:// or file:///: {mirror}")
    if wanted not in ("", "mnist", "digits"):
        raise ValueError(f"LABKIT_DATASET must be 'mnist' or 'digits' (or not set): {wanted!r}")
    return folder, mirror, wanted


def _embedded() -> tuple[np.ndarray, ...]:
    """scikit-learn's digits, 20×20 (bicubic) in a frame of 4; 1500 to train, 297 to test.

    The split is a fixed permutation; RandomState's is the same in every version of NumPy.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = [Image.fromarray(image) for image in small.reshape(-1, 8, 8).astype(np.float32) / 16]
    large = [np.asarray(image.resize((20, 20), Image.Resampling.BICUBIC)) for image in small]
    images = np.pad(np.clip(large, 0, 1), ((0, 0), (4, 4), (4, 4)))
    train, test = np.split(np.random.RandomState(0).permutation(len(images)), [1500])
    return images[train], labels[train], images[test], labels[test]


def _check(arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The same arrays, if images are uint8 (N, 28, 28) and labels uint8 (N,) of ten classes."""
    for images, labels in (arrays[:2], arrays[2:]):
        shapes = images.shape == (len(labels), 28, 28) and labels.ndim == 1
        types = images.dtype == labels.dtype == np.uint8
        if not (shapes and types and np.unique(labels).tolist() == list(range(10))):
            raise ValueError("these are not images of 28×28 bytes with labels 0 to 9")
    return arrays


def _stored(name: str, folder: Path) -> tuple[np.ndarray, ...] | None:
    """The arrays kept by an earlier `_store`, or None. The .npz has a checksum for each array."""
    path = folder / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return _check(tuple(file[field] for field in Dataset._fields[:4]))
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file may cause
        print(f"labkit: the stored copy of {name} is damaged or unreadable ({_reason(error)}).")
        return None


def _store(arrays: tuple[np.ndarray, ...], name: str, folder: Path) -> None:
    """Keep the arrays for `_stored`: under their final name only once they are whole, on disk."""
    try:
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
            path = Path(scratch, "data.npz")
            with path.open("wb") as file:
                np.savez(file, **dict(zip(Dataset._fields, arrays, strict=False)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(path, folder / f"{name}.npz")
    except OSError as error:
        why = f"no copy of {name} can be kept ({_reason(error)})"
        print(f"labkit: {why}; it will be fetched again next time. LABKIT_DATA names the folder.")


def _obtain(name: str, folder: Path, mirror: str) -> tuple[np.ndarray, ...]:
    """The arrays, uint8, from the first address that has them whole; then kept in `folder`."""
    reasons, silent, addresses = [], set(), ()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    try:
        from torchvision import datasets

        dataset = getattr(datasets, TORCHVISION[name])
        addresses = _addresses(dataset, name, folder, mirror)
    except Exception as error:  # RuntimeError or OSError if it does not fit the torch beside it
        reasons.append(f"torchvision does not import: {_reason(error)}")
    for label, address in addresses:
        server = None if isinstance(address, Path) else urllib.parse.urlsplit(address).netloc
        if server in silent:
            continue
        for place in (folder, None):  # None: the system's folder for temporary files
            try:
                with tempfile.TemporaryDirectory(
                    prefix=SCRATCH, dir=place, ignore_cleanup_errors=True
                ) as scratch:
                    fetch = functools.partial(_fetch, dataset, address, Path(scratch))
                    arrays = _check(_bounded(fetch, Path(scratch)))
                _store(arrays, name, folder)
                return arrays
            except Exception as error:
                reason = _reason(error)
                if not (isinstance(error, OSError) and error.errno in NO_ROOM):
                    break
        reasons.append(f"{label}: {reason}")
        if "timed out" in reason:
            silent.add(server)
        if "checksum" in reason:
            print(f"labkit: {reasons[-1]}; not used.")
    advice = (
        f"To get {name}: connect to the internet and load again; or set LABKIT_MIRROR to the URL "
        "(http://… or file:///…) of a folder with its four .gz files; or put them into the folder "
        "that LABKIT_DATA names."
    )
    missing = f"{name} is neither in the local folder nor could it be downloaded:"
    raise DataUnavailable("\n".join([missing, *(f"- {reason}" for reason in reasons), advice]))


def _addresses(dataset, name: str, folder: Path, mirror: str) -> Iterator[tuple[str, str | Path]]:
    """Where the four files may be, in order: (what to call it, folder or URL)."""
    for place in (folder / name, folder / dataset.__name__ / "raw", folder):
        if all(os.path.exists(place / file) for file, _ in dataset.resources):
            yield "the four files in LABKIT_DATA", place
    urls = []
    if mirror.startswith("http"):  # MNIST may lie bare in a mirror, others in a folder of their own
        urls = [f"{mirror}/{name}/"] + [f"{mirror}/"] * (name == "mnist")
    if mirror.startswith("file:"):
        root = Path(urllib.request.url2pathname(urllib.parse.urlsplit(mirror).path))
        bare = name == "mnist" and not os.path.isdir(root / name)
        yield "LABKIT_MIRROR", root if bare else root / name
    print(f"labkit: downloading {name} …", flush=True)
    yield from ((url, url) for url in [*urls, *dataset.mirrors])


def _fetch(dataset, address: str | Path, scratch: Path) -> tuple[np.ndarray, ...]:
    """The arrays from one address, through torchvision, which compares the checksums."""
    from torchvision.datasets.utils import check_integrity

    if isinstance(address, Path):  # torchvision does not read file URLs
        raw = scratch / dataset.__name__ / "raw"
        raw.mkdir(parents=True)
        for file, md5 in dataset.resources:
            shutil.copyfile(address / file, raw / file)
            if not check_integrity(raw / file, md5):
                raise RuntimeError(f"wrong checksum of {file}")
    source = type(dataset.__name__, (dataset,), {"mirrors": [str(address)]})
    parts = [source(str(scratch), train=train, download=True) for train in (True, False)]
    return tuple(a.numpy().astype(np.uint8) for part in parts for a in (part.data, part.targets))


def _bounded(fetch, scratch: Path):
    """Run `fetch` in silence; TimeoutError if `scratch` does not grow for STALL s, or at DEADLINE.

    It runs in a thread, because neither DNS nor a server that drips bytes obeys a socket's
    timeout. A thread given up ends by itself: it does not find its file again.
    """
    results = []

    def work():
        try:
            results.append(fetch())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    timeout, silence = socket.getdefaulttimeout(), io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        try:
            socket.setdefaulttimeout(TIMEOUT)
            start = grown = time.monotonic()
            size = 0
            thread.start()
            while not results:
                thread.join(0.2)
                now = time.monotonic()
                arrived = sum(f.stat().st_size for f in scratch.rglob("*") if f.is_file())
                if arrived > size:
                    size, grown = arrived, now
                if not results and (now - grown > STALL or now - start > DEADLINE):
                    raise TimeoutError("timed out")
        finally:
            socket.setdefaulttimeout(timeout)
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _sweep(folder: Path) -> None:
    """Remove what killed downloads left behind: no live one is an hour old."""
    for place in (folder, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            for old in place.glob(f"{SCRATCH}*"):
                if time.time() - old.stat().st_mtime > 3600:
                    shutil.rmtree(old, ignore_errors=True)


def _reason(error: Exception) -> str:
    """One short line without paths of this machine."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = text.strip().splitlines()[-1].removeprefix("<urlopen error ").removesuffix(">")
    if "corrupted" in line:
        return "wrong checksum (a file is damaged, or was cut short)"
    return line.partition("] ")[2] if line.startswith("[Errno") else line


def _banner(text: str) -> str:
    """The text in a box, below what the reader has to know first."""
    first = "NOT MNIST: these are the 1,797 small digits that come with scikit-learn."
    lines = [first, *text.splitlines()]
    rows = [row for line in lines for row in textwrap.wrap(line, 80, subsequent_indent="  ")]
    edge = "━" * 82
    return "\n".join([f"┏{edge}┓", *(f"┃ {row:<80} ┃" for row in rows), f"┗{edge}┛"])
