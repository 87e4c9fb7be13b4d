"""The trainer, and everything that changes its state."""
