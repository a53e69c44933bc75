"""The edges: gRPC servicers, health, command line, and the assembly of it all. Knows no mlx."""

import os

# gRPC's fork handlers only warn, and do not apply: worker processes are spawned and execute another
# program at once. Read by gRPC when it is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
