"""Checks of everything a training is given, before anything is built or written."""
