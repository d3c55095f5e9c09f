"""`python -m qdit` is the command `qdit`."""

from qdit.cli import main

main()
