"""Whole files, and who may write them: atomic writes, locks, tables, tensor files, shards of work."""
