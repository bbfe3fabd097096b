"""A stand-in for the CUDA driver, so that the host's part can be run to the end without a GPU.

``libcuda.c`` holds memory and takes launches; :mod:`.session` compiles it and, in a process that
has it loaded, executes each launch with the PTX interpreter.
"""
