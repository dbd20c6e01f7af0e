"""Ahead-of-time compilation and reports, without training: ``--dry-run`` and ``--compile-for``."""
