"""Engines that write pictures; they ask for callables and know no model."""
