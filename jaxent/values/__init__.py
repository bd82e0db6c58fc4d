"""Joint and local values, and how far a sum of local ones is off."""
