"""`python -m qdit` is the command `qdit`."""

from qdit.cli.main import main

if __name__ == "__main__":
    main()
