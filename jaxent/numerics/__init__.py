"""Numerical methods that know nothing of agents: products, projections, solvers."""
