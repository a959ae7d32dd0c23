"""Commands under their documented names; each hands on to the room that does the work."""
