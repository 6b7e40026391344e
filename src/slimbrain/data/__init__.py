"""From a draw to tensors: which session, which windows, which tokens are masked."""
