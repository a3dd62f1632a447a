"""Records and verdicts in, text and pictures out. No measuring."""
