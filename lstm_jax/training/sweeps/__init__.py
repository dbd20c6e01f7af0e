"""Many runs of an experiment: grids and searches, each run in a process of its own."""
