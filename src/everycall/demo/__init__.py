"""The demo: a real small model on this machine, a server, and a program that makes calls of every kind.

`everycall demo` runs it; nothing else in the package imports it.
"""
