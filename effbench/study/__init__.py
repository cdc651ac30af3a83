"""Studies: which arm is better, by tuning each with the same budget and comparing over paired seeds."""
