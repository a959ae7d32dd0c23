"""The checks of the doctor, one file for each part of the machine and for each service."""
