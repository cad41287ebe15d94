"""The tiny world: portraits drawn by a program, and the small networks trained on them."""
