"""Foreign weight files: read without executing anything, turned into our networks' tensors."""
