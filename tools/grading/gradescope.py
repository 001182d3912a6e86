"""Autograders for Gradescope, one for each notebook: `python -m tools.grading.gradescope FOLDER`.

Otter (https://otter-grader.readthedocs.io) runs the whole notebook, then our checks in the same
process: it does not enclose a submission, so do not hide in a check what a student must not read.
`otter run -a 00_start_here.zip SUBMISSION.ipynb` grades on this machine.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from tools.grading.grade import course
from tools.student import build_wheel

try:
    from otter import generate
except ModuleNotFoundError:
    raise SystemExit("This needs Otter: pip install otter-grader ipykernel") from None

TEST = """\
OK_FORMAT = False
name = "{check.number} {check.title}"
points = {check.stars}
from otter.test_files import test_case


@test_case()
def judged(env):
    import numpy as np
    from labkit import check
    from labkit.exercises.core import verdict

    asked = check.{check.__name__}.judge
    state, hint = verdict(asked, env["{function}"], np.random.default_rng())
    if state != "done":
        raise AssertionError(hint or state)
"""


def main(arguments: list[str] | None = None) -> None:
    """Write FOLDER/NOTEBOOK.zip for every notebook with exercises."""
    (given,) = sys.argv[1:] if arguments is None else arguments
    folder = Path(given).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)  # generate takes what lies in the folder where it runs
        wheel = build_wheel(Path(here))
        needs = f"ipykernel\n/autograder/source/files/{wheel}\n"
        Path("needs.txt").write_text(needs, "utf-8")
        Path("otter.json").write_text(json.dumps({"pdf": False}), "utf-8")
        for name, (exercises, _) in course().items():
            tests = Path(name)
            tests.mkdir()
            for check, function, _ in exercises:
                source = TEST.format(check=check, function=function)
                (tests / f"{check.__name__}.py").write_text(source, "utf-8")
            if exercises:
                made = str(folder / f"{name}.zip")
                generate.main(tests_dir=name, output_path=made, config="otter.json",
                              requirements="needs.txt", files=[wheel])  # fmt: skip
                print(made)


if __name__ == "__main__":
    main()
