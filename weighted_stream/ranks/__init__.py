"""Ranks: the processes that train one model together, and what each of them learns of the others' feedback."""
