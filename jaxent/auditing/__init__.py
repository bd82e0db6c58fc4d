"""How wrong a log's sum of local values is, a verdict, and what to do next."""
