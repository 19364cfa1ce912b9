"""`python -m turnkeeper`: the command line, as `turnkeeper` is."""

from turnkeeper.cli.main import script

if __name__ == "__main__":
    script()
