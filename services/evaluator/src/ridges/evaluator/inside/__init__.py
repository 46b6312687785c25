"""What runs inside the evaluation sandbox: standard library only, Python 3.8 or newer; the service only reads it."""
