"""What people say: a blinded study, and its analysis."""
