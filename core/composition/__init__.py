"""From YAML files and command line to one plain config tree.

choices     where the files are and what there is to choose
tree        which files apply, what the command line says on top
references  laying mappings over each other, `${…}`
schema      constructor annotations as the schema
allowlist   what a config may name
suggest     nearest names for messages
"""
