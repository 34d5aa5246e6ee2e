"""Table and plot of the results; needs neither torch nor Avalanche."""
