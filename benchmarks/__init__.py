"""Benchmarks. They are not part of the installed package.

``python -m benchmarks.peers`` compares this project with other LSTM implementations.
``python -m benchmarks.growth`` measures how time and memory grow with T, B and H.
See ``benchmarks/README.md`` for all benchmarks.
"""
