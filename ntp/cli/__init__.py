"""The commands: one short function each, which parses, calls and writes. No logic.

torch is imported inside those that need it: ``ntp --help`` must not wait for it.
"""
