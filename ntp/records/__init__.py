"""Frozen records and their files. Importing them loads no torch and starts no process."""
