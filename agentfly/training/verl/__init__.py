"""The classes that verl calls in its own processes, and what they send to each other."""
