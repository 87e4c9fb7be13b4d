"""Reports of studies: tables, plots and one page."""
