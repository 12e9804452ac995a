"""`python -m act_ray`: the same as `act-ray`."""

from act_ray.cli import main

if __name__ == "__main__":
    main()
