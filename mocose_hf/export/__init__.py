"""Sentence encoders and model cards that users take away."""
