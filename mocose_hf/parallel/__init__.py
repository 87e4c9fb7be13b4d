"""Several processes: collectives and DeepSpeed."""
