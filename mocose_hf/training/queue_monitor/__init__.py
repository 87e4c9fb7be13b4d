"""Records, measures and plots of the negatives while training."""
