"""The HTTP side of the image server: routes, request bodies, limits and errors. No engine is imported here."""
