"""The exercises of the course: one module a notebook, with the right answers and named mistakes."""
