"""Search a text file by meaning."""
