"""From frozen embeddings to a result one may believe: probes, baselines and intervals, always split by subject."""
