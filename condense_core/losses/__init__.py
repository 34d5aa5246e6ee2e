"""The terms of the condensation loss L_con, one file each."""
