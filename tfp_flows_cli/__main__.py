"""`python -m tfp_flows_cli` is `tfp-flows`."""

from tfp_flows_cli import main

if __name__ == "__main__":
    main()
