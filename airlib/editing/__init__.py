"""Pictures in, latents out, and what can be done with them: inversion, edits, walks and mixing."""
