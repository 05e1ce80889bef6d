"""The command line: each group of commands adds its own."""
