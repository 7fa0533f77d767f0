"""Changes a line of the code that carries the safety, and sees whether a test notices."""
