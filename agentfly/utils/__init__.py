"""Commands under their documented names; each calls the package that does the work."""
