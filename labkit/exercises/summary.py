"""What a reader has done in this session: `check.summary()`. Kept in the kernel's memory only."""

import dataclasses
import time

_began = time.monotonic()
_entries: dict[str, "Entry"] = {}
TITLES: dict[str, str] = {}  # of every exercise, by its number; `exercise` fills it


@dataclasses.dataclass
class Entry:
    """Tries of one exercise up to its ✓, the seconds from the session's start to it; right now?"""

    tries: int = 0
    seconds: float | None = None
    right: bool = False


def note(number: str, attempted: bool, done: bool) -> None:
    """Take down one run of an exercise's check; what comes after its first ✓ changes nothing."""
    entry = _entries.setdefault(number, Entry())
    entry.right = done
    if attempted and entry.seconds is None:
        entry.tries += 1
        if done:
            entry.seconds = time.monotonic() - _began


def right(number: str) -> bool:
    """Whether the check's last run on the reader's answer to this exercise printed ✓."""
    return number in _entries and _entries[number].right


def summary() -> None:
    """Print, for each exercise of this notebook: done or not, tries, minutes until its ✓.

    A try is a run of the check on something written; solutions that come with the notebook do
    not count. Minutes run from the cell that imports `check`.
    """
    notebooks = {_key(number)[0] for number in _entries}
    numbers = sorted((n for n in TITLES if _key(n)[0] in notebooks), key=_key)
    if not numbers:
        print("No exercise has been checked in this session; run the cells with check.exercise_…")
        return
    entries = {number: _entries.get(number, Entry()) for number in numbers}
    done = sum(entry.seconds is not None for entry in entries.values())
    print(f"{done} of {len(numbers)} exercises done")
    width = max(len(TITLES[number]) for number in numbers)
    for number, entry in entries.items():
        print(f"  {number}  {TITLES[number]:{width}}  {_words(entry)}")


def _words(entry: Entry) -> str:
    if not entry.tries:
        return "not attempted"
    tries = f"{entry.tries} {'try' if entry.tries == 1 else 'tries'}"
    if entry.seconds is None:
        return f"not right yet, {tries}"
    return f"done, {tries}, after {max(1, round(entry.seconds / 60))} min"


def _key(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))
