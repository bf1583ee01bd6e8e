"""Pictures in and out: what a file is, safe decoding in a worker process, one normal form, hashes, and PNG.

Everything that came from outside is decoded by `pool.DecodePool`, in a process of its own. Nothing here trusts a file
name.
"""
