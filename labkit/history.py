"""What a training has seen."""

from typing import NamedTuple

import numpy as np


class History(NamedTuple):
    """What `fit` saw.

    metrics: one value per iteration, each array of shape (iterations, ...).
    evaluations: one value per evaluation; `evaluations["iteration"]` says after which iteration.
    seconds: time in compiled training code, in s; neither compiling nor evaluating is in it.
    compile_seconds: time spent compiling, in s.
    """

    metrics: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float
