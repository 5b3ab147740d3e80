"""How good is an encoder, and how good a reconstruction; every figure with its interval and beside its baselines."""
