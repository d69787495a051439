"""The parts of `deploy/images/build`. Nothing beyond Python's own library is needed."""
