"""Running the notebooks: their setup, execution, report and publication."""
