"""Generators: what is adapted. `base` is the contract, one file per family."""
