"""Many adaptations: planned, restartable, scored, here or on a cluster."""
