"""Images in, latents out, and what can be done with them: inversion and style mixing."""
