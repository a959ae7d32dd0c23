"""The scripts of the document on directors and generators; verl installs another package of this name."""
