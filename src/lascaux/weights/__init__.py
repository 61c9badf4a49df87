"""Weights: where models come from, how files are read, renamed, checked and saved.

`lascaux.load` and `lascaux.save` are the front door; the modules here are its rooms.
"""
