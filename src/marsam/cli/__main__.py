"""`python -m marsam.cli`: the same as `marsam`."""

from marsam.cli.main import app

if __name__ == "__main__":
    app()
