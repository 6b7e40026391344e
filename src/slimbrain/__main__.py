"""`python -m slimbrain`, and `torchrun -m slimbrain` for several processes."""

from slimbrain.cli import main

main()
