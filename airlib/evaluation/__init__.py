"""Metrics: pure functions of features or images, and the intervals that go with them."""
