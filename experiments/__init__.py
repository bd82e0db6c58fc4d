"""One file a figure: a config, a pure run, a command."""
