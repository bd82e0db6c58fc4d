"""One experiment over a grid of points, and its files."""
