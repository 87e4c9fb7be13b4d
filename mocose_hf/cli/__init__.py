"""From the command line to the library."""
