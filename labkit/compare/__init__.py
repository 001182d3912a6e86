"""What the last notebook compares: common questions, an independent judge, saved answers."""
