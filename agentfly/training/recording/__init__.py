"""Record chains beside the training: their lines, their images within a limit, and a few for the loggers."""
