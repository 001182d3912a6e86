"""Get a dataset into memory, and batch it.

`load` looks in a local folder, then downloads, then falls back to the small digits that come with
scikit-learn. Three environment variables steer it:

LABKIT_DATA     folder that keeps the data (default: a cache folder of the user)
LABKIT_MIRROR   http(s) or file address of a folder that is tried before the internet
LABKIT_DATASET  "mnist": an error instead of the small digits; "digits": the small digits, at once
"""

import functools
import gzip
import operator
import textwrap
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labkit import download

_course = "mnist"
_lock = threading.Lock()


class DataUnavailable(RuntimeError):
    """The dataset is not stored and cannot be downloaded; the message says why and what to do."""


class Dataset(NamedTuple):
    """Images float32 (N, 28, 28) in [0, 1] and labels int32 (N,), for training and for testing,
    read-only."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    name: str
    source: str

    def __repr__(self) -> str:
        parts = {"training": self.train_labels, "test": self.test_labels}
        classes = np.unique(np.concatenate(list(parts.values())))
        lines = [f"{self.name}: {self.source}", "  class   " + "".join(f"{c:>7}" for c in classes)]
        for part, labels in parts.items():
            cells = "".join(f"{np.sum(labels == c):>7,}" for c in classes)
            lines.append(f"  {part:<8}{cells}  = {len(labels):,} images")
        return "\n".join([*lines, "  images 28×28, float32 in [0, 1], labels int32"])


def load(name: str = "mnist", digits: Iterable[int] | None = None) -> Dataset:
    """A dataset in memory: images float32 (N, 28, 28) in [0, 1], labels int32 (N,), read-only.

    `name` is "mnist", "fashion_mnist", "kmnist" or "digits"; `digits=[5, 7]` keeps these classes,
    under their own labels. Without MNIST, `load("mnist")` says so in a banner and gives "digits".
    Raises ValueError for a bad argument or LABKIT_ variable, DataUnavailable if there is no data.
    """
    global _course
    if name not in list(download.DATASETS):
        raise ValueError(f"no dataset {name!r}; there are {', '.join(download.DATASETS)}")
    classes = digits if digits is None else _classes(digits)
    with _lock:
        dataset = _whole(name, *download.settings())
    if isinstance(dataset, str):
        raise DataUnavailable(dataset)
    if name == "mnist":
        _course = dataset.name
    if classes is None:
        return dataset
    train, test = (np.isin(labels, classes) for labels in (dataset[1], dataset[3]))
    return _dataset(dataset.name, *(a[i] for a, i in zip(dataset, (train, train, test, test))))


def stored(name: str) -> Dataset | None:
    """A dataset whose files are in the data folder, else None; prints nothing."""
    found = download.stored(name, download.settings()[0], say=lambda _: None)
    return _decoded(name, found) if len(found) == 4 else None


def course_dataset() -> str:
    """What `load("mnist")` gave in this process: "mnist", or "digits" in its place."""
    return _course


def one_hot(labels: np.ndarray, classes: int = 10) -> np.ndarray:
    """Labels (N,) in 0 … classes-1 as float32 (N, classes); ValueError for any other label."""
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels must lie in 0 … {classes - 1}")
    return np.eye(classes, dtype=np.float32)[labels]


def flatten(images: np.ndarray) -> np.ndarray:
    """Images (N, 28, 28) as rows (N, 784), without a copy where possible."""
    return np.reshape(images, (len(images), -1))


def batches(arrays: Sequence[np.ndarray], batch_size: int, *, seed: int) -> Iterator[tuple]:
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
        classes = [operator.index(digit) for digit in digits]
    except TypeError:
        classes = []
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(f"digits must be different whole numbers from 0 to 9, not {digits!r}")
    return classes


@functools.cache
def _whole(name: str, folder: Path, mirror: str, wanted: str) -> Dataset | str:
    """The dataset, or why it is unavailable; decided, and printed, once a process."""
    if name == "digits" or (name, wanted) == ("mnist", "digits"):
        if name == "mnist":
            print("labkit: LABKIT_DATASET=digits, so these are the small digits, not MNIST.")
        return _small_digits()
    try:
        return _decoded(name, download.fetch(name, folder, mirror))
    except ConnectionError as error:
        why = f"""{name} is not in the data folder and could not be downloaded:
{error}
To get {name}: connect to the internet and restart the kernel; or set LABKIT_MIRROR to the \
address (http://… or file:///…) of a folder with its four .gz files; or put them into the folder \
that LABKIT_DATA names."""
    if name != "mnist" or wanted == "mnist":
        return why
    print(_banner(why))
    return _small_digits()


def _decoded(name: str, found: dict[str, bytes]) -> Dataset:
    arrays = []
    for file in download.DATASETS[name]["files"]:
        array = np.frombuffer(gzip.decompress(found[file]), np.uint8)
        if "images" in file:
            pixels = array[16:].reshape(-1, 28, 28)
            arrays.append(np.divide(pixels, np.float32(255), dtype=np.float32))
        else:
            arrays.append(array[8:].astype(np.int32))
    return _dataset(name, *arrays)


@functools.cache
def _small_digits() -> Dataset:
    """scikit-learn's digits, 20×20 (bicubic) in a frame of 4; 1500 to train and 297 to test, by a
    permutation that is the same in every version of NumPy."""
    from PIL import Image
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = map(Image.fromarray, small.reshape(-1, 8, 8).astype(np.float32) / 16)
    large = [np.asarray(image.resize((20, 20), Image.Resampling.BICUBIC)) for image in small]
    images = np.pad(np.clip(large, 0, 1), ((0, 0), (4, 4), (4, 4)))
    order = np.random.RandomState(0).permutation(len(images))
    labels = labels.astype(np.int32)
    return _dataset("digits", *(a[i] for i in np.split(order, [1500]) for a in (images, labels)))


def _dataset(name: str, *arrays: np.ndarray) -> Dataset:
    for array in arrays:
        array.flags.writeable = False
    return Dataset(*arrays, name=name, source=download.DATASETS[name]["source"])


def _banner(text: str) -> str:
    """The text in a box, below what the reader has to know first."""
    text = f"NOT MNIST: these are the 1,797 small digits that come with scikit-learn.\n{text}"
    rows = [
        row for line in text.splitlines() for row in textwrap.wrap(line, 80, subsequent_indent="  ")
    ]
    edge = "━" * 82
    return "\n".join([f"┏{edge}┓", *(f"┃ {row:<80} ┃" for row in rows), f"┗{edge}┛"])
