"""`make bench`: figures, side by side in one run; asserts nothing."""
