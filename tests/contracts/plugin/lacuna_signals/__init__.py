"""A modality from outside: signals in time, (C, T). A reader and one YAML are all that it takes."""
