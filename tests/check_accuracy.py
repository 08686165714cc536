#!/usr/bin/env python3
"""Check the newest job of the model `reviews`: it succeeded, and its test accuracy is at least the given one.

    check_accuracy.py JOBS.json MINIMUM

JOBS.json is what `client --json jobs` printed: one job a line, the newest first.
"""
import json
import sys


def main(path, minimum):
    with open(path, encoding="utf-8") as file:
        jobs = [json.loads(line) for line in file if line.strip()]
    jobs = [job for job in jobs if job["spec"]["name"] == "reviews"]
    if not jobs:
        sys.exit(f"error: {path} has no job of the model reviews")
    job = jobs[0]
    if job["state"] != "succeeded":
        sys.exit(f"error: job {job['id']} is {job['state']}")
    accuracy = job["test"]["metrics"]["accuracy"]
    print(f"test accuracy {accuracy:.4f}, at least {minimum} expected")
    if not accuracy >= minimum:
        sys.exit("error: the accuracy is too low")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], float(sys.argv[2]))
