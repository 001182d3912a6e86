"""Grade a class: `python -m tools.grading FOLDER --csv class.csv`."""
