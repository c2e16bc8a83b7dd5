"""`python -m probekit`: the command line of this very environment."""

from probekit.cli.main import main

main()
