"""The YAML files of all config groups; a package so that they are installed with the code."""
