"""The command line: one file per verb, each a thin skin over a task."""
