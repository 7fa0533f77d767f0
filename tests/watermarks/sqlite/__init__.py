"""Tests of the room `watermarks/sqlite`."""
