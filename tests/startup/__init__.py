"""Tests of the room `startup`."""
