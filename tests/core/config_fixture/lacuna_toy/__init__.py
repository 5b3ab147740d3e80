"""A plug-in from outside: its parts and configs are found through the entry point in the dist-info beside it."""
