"""Runs on the page: the graph of stages, curves, comparison, lineage, stop and resume."""
