"""Everything behind ``train.py``: configuration, data, model, optimizer, loop."""
