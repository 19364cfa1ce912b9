"""The client of a server: the verbs of `Session`, over HTTP. It needs the extra `client`.

client.py       `Client` and its sessions
completion.py   handles on inputs
calling.py      one request: sent again while that is safe, its problem turned into an error
following.py    a stream that is gone on with where it broke
"""

from turnkeeper.client.client import Client, RemoteSession
from turnkeeper.client.completion import RemoteCompletion

__all__ = ["Client", "RemoteCompletion", "RemoteSession"]
