"""The loop that trains networks from nothing, and what it saves."""
