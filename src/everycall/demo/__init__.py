"""The demo: a small model and a server on this machine, and a program that calls the model in several ways.

`everycall demo` runs it. Nothing else in the package imports it.
"""
