"""Watermarks in an SQLite file."""
