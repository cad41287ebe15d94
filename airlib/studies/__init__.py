"""Empirical studies of the papers, as functions that the notebooks call."""
