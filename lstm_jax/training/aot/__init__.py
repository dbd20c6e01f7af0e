"""What is known of an experiment before it trains: ``--dry-run`` and ``--compile-for``."""
