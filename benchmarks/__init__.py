"""How fast it is, and beside whom: measurements, not part of the installed package.

``python -m benchmarks.peers`` times this project beside other LSTMs with the same weights.
``python -m benchmarks.growth`` shows how time and memory grow with T, B and H.
"""
