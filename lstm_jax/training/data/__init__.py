"""Corpora and tasks: where batches come from."""
