"""What runs inside the sandbox: standard library only, loaded from source over a pipe, never imported by the package."""
