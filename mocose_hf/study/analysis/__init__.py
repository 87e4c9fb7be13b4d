"""Statistics of studies: tests against the default, noise, and agreement with the paper."""
