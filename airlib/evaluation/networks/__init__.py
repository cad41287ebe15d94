"""The published networks that judge images: Inception, LPIPS, and both as one judge."""
