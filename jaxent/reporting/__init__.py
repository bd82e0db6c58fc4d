"""What is written down: files of an audit, and the command line."""
