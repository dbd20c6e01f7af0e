"""Saves training states and models, and restores them."""
