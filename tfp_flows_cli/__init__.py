"""The command `tfp-flows`: fit, score, sample and plot densities of tables of numbers.

    tfp-flows fit data.csv --out runs/data                    # train, compare, draw
    tfp-flows score runs/data new.csv                         # a log-density for each row
    tfp-flows sample runs/data -n 1000 --out more.csv
    tfp-flows plot runs/data --out pictures

What the user got wrong is one line on standard error and exit code 1, before anything is written,
and so is a disk that is full: files are written whole or not at all. Any other error shows its
traceback.

It stands beside the package `tfp_flows`, the import of which takes seconds: help and errors of
arguments come at once.
"""

from tfp_flows_cli.app import app, main

__all__ = ["app", "main"]
