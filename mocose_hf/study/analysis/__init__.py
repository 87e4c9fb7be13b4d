"""Statistics of studies."""
