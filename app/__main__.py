"""`python -m app` is `priohook`."""

from app.cli.main import main

main()
