"""`python -m service` is the `penstock` command."""

from service.cli import main

main()
