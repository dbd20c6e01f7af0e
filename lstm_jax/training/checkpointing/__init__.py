"""Saving and restoring of training states and models."""
