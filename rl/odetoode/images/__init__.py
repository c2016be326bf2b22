"""Pictures for classifiers: data sets, corruptions, batches."""
