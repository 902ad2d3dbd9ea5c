"""The command line: one file per sub-command, heavy imports only where they are used."""
