"""The chain of joint pairs that a model and a policy make, its views, and its stationary law."""
