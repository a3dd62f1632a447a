"""Measurements in, verdicts out. Pure functions of numbers: no torch, no process, no file."""
