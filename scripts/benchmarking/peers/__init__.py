"""Other libraries, each in a file of its own that imports it only when it is measured."""
