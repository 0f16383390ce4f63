"""The report: what the weights did in a run, as one page that opens anywhere and asks nobody for anything."""
