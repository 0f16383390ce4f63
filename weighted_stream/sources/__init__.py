"""Who gives a sample its id: one file per kind of dataset."""
