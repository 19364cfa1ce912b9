"""The stores that are shipped, each an implementation of the contract in `store.py`."""
