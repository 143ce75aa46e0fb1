"""The commands of the command line: parse, build the mesh, call one stage."""
