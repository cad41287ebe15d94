"""How a picture file becomes a tensor, and back."""
