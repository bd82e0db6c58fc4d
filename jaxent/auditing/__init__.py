"""What a person reads: the audit's report, pictures, and the command line."""
