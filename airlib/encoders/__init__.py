"""Encoders of photographs: image -> latents of a generator, one file per family."""
