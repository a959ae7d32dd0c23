"""The classes that verl calls in its own processes, and the messages that they send to each other."""
