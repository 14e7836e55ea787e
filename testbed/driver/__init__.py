"""The testbed's driver: draws plans from a seed, runs perfwright on them, compares it with the truth."""
