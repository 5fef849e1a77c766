"""`python -m tfp_flows.cli` is `tfp-flows`."""

from tfp_flows.cli import main

if __name__ == "__main__":
    main()
