"""Figures: one file per benchmark, one report format (`Report`)."""
