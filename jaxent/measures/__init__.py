"""How entangled a chain is, and whether it is separable at all."""
