"""What a run shows while it trains: the console, plots, profiles, trackers."""
