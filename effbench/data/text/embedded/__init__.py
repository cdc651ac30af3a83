"""Texts that ship with the package: data, licences, digests and the scripts that made them."""
