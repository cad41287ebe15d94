"""CLIP as a space of unit vectors: images and texts in, directions and distances out."""
