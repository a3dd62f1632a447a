"""Processes that run steps: how they start, what they are asked, how they end."""
