"""Watermarks: what was signed last, so that nothing is signed against it."""
