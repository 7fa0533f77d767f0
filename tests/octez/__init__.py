"""Tests of the room `octez`."""
