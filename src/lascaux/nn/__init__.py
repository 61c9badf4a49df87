"""Layers and computations that models share."""
