"""The log: lines, and their way to whoever reads them."""
