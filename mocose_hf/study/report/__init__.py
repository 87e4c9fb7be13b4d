"""Tables, plots and pages of studies."""
