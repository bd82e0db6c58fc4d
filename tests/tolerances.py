"""Tolerances by name, each once."""

EXACT = 1e-12  # one formula against another
SOLVE = 1e-9  # through a linear solve
FD = 1e-6  # against central finite differences
F32 = 1e-5  # float32 against float64
STANDARD_ERRORS = 5.0  # Monte Carlo, at a fixed key
