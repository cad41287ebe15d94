"""What may move of a generator when it is adapted."""
