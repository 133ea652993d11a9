"""The APIs of providers: how requests are written and responses are read. Pure translation, without I/O.

Nothing is lost in it: what a provider cannot take is mapped to what it takes, or refused with 422 naming the place.
"""
