"""Who is in what, under which terms: ledgers of stores and models, withdrawals, what a model remembers."""
