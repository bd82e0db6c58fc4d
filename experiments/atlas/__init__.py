"""When is a sum of values enough? Team problems, their diagnostics, and what VDN and QMIX lose."""
