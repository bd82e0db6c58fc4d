"""The convex programs behind the measures, one file each."""
