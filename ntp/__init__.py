"""ntp: know how fast a next-token model trains on a CPU, why, and whether a change made it slower."""

__version__ = "0.1.0"
