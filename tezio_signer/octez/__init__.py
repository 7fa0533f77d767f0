"""The encodings of Octez, without I/O."""
